#include <vector>
#include "box.hpp"
using namespace std;
using Name = std::string;
namespace outer::inner {
namespace { int unnamed = 1; }
class Forward;
/// A box.
template <typename T, int N = 3>
class Box : public Base<T> {
 public:
  explicit Box(int size) : size_(size) {}
  virtual ~Box() = default;
  virtual int area() const = 0;
  void declared();
  static constexpr int kMax = 3;
  Box& operator=(const Box& other) { return *this; }
  bool operator()(int x) const { return x; }
  operator bool() const { return true; }
  enum class Level : char { Low, High };
  struct Inner { int x; };
  friend void swap(Box& a, Box& b) {}
  using value_type = T;
  template <class U> U convert() const { auto lambda = [&](int a) { int local = a; return local; }; return U(); }
 private:
  int size_ = 0;
  std::vector<T> items_, *more_;
};

template <typename T, int N>
void Box<T, N>::declared() { int local = 1; static int kept; }

int Plain::Nested::method(int a) const noexcept { return a; }
Plain::Plain() : x(1) {}
Plain::~Plain() {}
bool Plain::operator==(const Plain& o) const { return true; }
const int Plain::kStatic = 3;
extern "C" { void c_function(int) {} }
extern "C" int single(void) { return 1; }
template <> struct hash<Name> { };
template <typename T> concept Small = sizeof(T) < 8;
inline auto deduced() -> int { return 1; }
constexpr double kPi = 3.14;
union Bits { int i; float f; };
typedef unsigned long ulong_t;
struct Point { int x, y; } origin;
enum Color { Red, Green };
#define DECLARE(x) int x
int *pointer_function(const std::string &s) { return nullptr; }
vector<int> &reference_function() { static vector<int> v; return v; }
}  // namespace outer::inner
