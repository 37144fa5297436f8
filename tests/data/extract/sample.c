#include <stdio.h>
#include "box/lid.h"

/* The limit. */
#define LIMIT 3
#define MAX(a, b) \
  ((a) > (b) ? (a) : (b))
#define GUARD

/** A box. */
struct box {
  int size, depth; /**< bytes */
  char *name;
  unsigned flag : 1;
  int (*callback)(void *);
  struct { int nested; } inner;
  int array[4];
};

typedef struct box box_t, *box_p;
typedef struct { int x; } point;
typedef int (*visit)(struct box *, void *);
typedef enum level { LOW, HIGH = 2 } level_t;
enum { ANONYMOUS };
union bits { int i; float f; };
struct forward;

extern int declared;
static int count = 0, *pointer, table[3] = {1, 2, 3};
const char *const names[] = {"a"};
int prototype(int a);
static struct box only = { .size = 1 };
int (*hook)(int) = NULL;

/// Opens it.
static inline int open_box(struct box *b, const char *path)
{
  int local = LIMIT;
  struct local_type { int y; } z;
  return b->size + local;
}

char *
returns_pointer(void) { return MAX(NULL, 0); }

int old_style(a, b) int a; char *b; { return a; }
void (*signal_like(int sig, void (*func)(int)))(int) { return 0; }
#if defined(GUARD) && !LIMIT
int conditional(void) { goto end; end: return 0; }
#else
int conditional(int x) { return x; }
#endif
static PyObject *DEFUN(name) { return 0; }
