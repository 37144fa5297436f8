/* One pass of a dense Llama on a CPU: token ids to logits, weights in int8 or int4, in one call.
 *
 * What it computes is what `layers` and `linear` compute; why it exists is speed: a step of a small model
 * is hundreds of operations of a microsecond each, and a call for each of them costs as much again.
 *
 * A position's numbers never depend on what is computed beside it. Activations are quantised row by row, each
 * 32 of them to int8 with a step of their own (as llama.cpp's Q8_0 does), and products with the weights are
 * summed as integers within those 32, which is exact in any order; every sum of floats runs over a row or over
 * positions in one fixed order, and products are fused into sums only where `fused` says so (the compiler is
 * told not to). So a prompt computed at once, in pieces, or a token at a time gives the same bits, and `native`
 * may go on from any cached position.
 *
 * Plain C with GNU vector extensions: gcc and clang compile it. The products are written for AVX-512 VNNI,
 * AVX-VNNI, AVX2 and NEON's dot product, with a plain loop for other processors; whether they are right, and faster
 * than torch's kernels, is measured before they are used.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __AVX__
#include <immintrin.h>
#endif
#ifdef __ARM_FEATURE_DOTPROD
#include <arm_neon.h>
#endif
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sched.h>
#endif

/* LANES of a vector, as wide as the widest that multiplies bytes; outputs and positions are stored in tiles as wide.
 * MOST rows, or queries, share what is loaded: as many as the registers hold sums of. */
#ifdef __AVX512VNNI__
#define LANES 16
#define MOST 6
#else
#define LANES 8
#define MOST 3
#endif
#define STRIDE (4 * LANES) /* positions whose scores are computed together; a cache holds a multiple */
#define GROUP 32           /* activations of a row that share a step */
#define GROUPS(inputs) (((inputs) + GROUP - 1) / GROUP)
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

/* Weights [N, K]; N is a multiple of 32, padded with zeros. Of eight bits: w + 128 in tiles
 * [N / LANES][K / 4][LANES][4], and a scale for each output. Of four, where there are `pairs`: 0 to 15, each byte of
 * tiles [N / LANES][K / 8][LANES][4] one of the first four inputs in its lower half and of the next four in its
 * upper, and [N / LANES][K / 32][LANES] pairs of bfloat16: the scale below, above it the middle, which 8 stands for. */
typedef struct {
    const uint8_t *weight;
    const int32_t *pairs; /* or null */
    const float *scale;   /* [N] or null */
    const float *bias;    /* [N] or null */
    int64_t n, k;
} linear;

typedef struct {
    const float *attention_norm, *feed_forward_norm; /* [dim] */
    linear qkv, o, gate_up, down;
} layer;

typedef struct {
    int64_t dim, layers, heads, kv_heads, head_dim, ffn;
    float eps;
    const float *embedding; /* [vocabulary, dim] */
    const layer *layer;
    const float *norm;
    linear head;
} model;

/* Keys [layers, KV, capacity / LANES, D, LANES] and values [layers, KV, capacity, D], float32, or int8 where there
 * are scales [layers, KV, capacity]. */
typedef struct {
    void *keys, *values;
    float *key_scale, *value_scale;
    int64_t capacity;
} cache;

/* Rows to run: each an id at a position of its cache, whose earlier positions are there or among these rows.
 * `cosine` and `sine` [positions, head_dim / 2] are tables; logits are wanted of the last rows. */
typedef struct {
    int64_t rows, wanted;
    const int64_t *ids, *positions;
    const cache *const *caches;
    const float *cosine, *sine;
} batch;

/* Room for a pass: the caller allocates it once. `scores` is a thread's own; `inputs` and `outputs` are the
 * widest that any product has. */
typedef struct {
    float *x;       /* [rows, dim], what the layers add to */
    float *wide;    /* [rows, outputs], what a product gives */
    float *input;   /* [rows, inputs], what the next product takes, */
    int8_t *bytes;  /* [rows, inputs], in int8, */
    float *step;    /* [rows, groups] */
    int32_t *sums;  /* [rows, groups], of the bytes */
    float **scores; /* for each thread [MOST, positions] */
    int64_t inputs, outputs;
    int32_t arrived, sleeping, turn; /* see `meet`; zeros */
} workspace;

/* ------------------------------------------------------------------------------------ vectors */

INLINE vec splat(float x) { return x - (vec){}; }
INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE vec widen(const int8_t *p) {
#ifdef __AVX512VNNI__ /* gcc converts bytes to floats one by one */
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
#else
    return __builtin_convertvector(__builtin_convertvector(*(const bytes *)p, ivec), vec);
#endif
}
INLINE vec pick(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

/* a * b + c, rounded once where the processor can; a machine does always the same. */
INLINE vec fused(vec a, vec b, vec c) {
#ifdef __AVX512VNNI__
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__FP_FAST_FMAF)
    for (int i = 0; i < LANES; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#else
    return a * b + c;
#endif
}

/* The sum of the lanes, in halves: always in the same order. */
INLINE float total(vec x) {
    float lane[LANES];
    memcpy(lane, &x, sizeof lane);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) lane[i] += lane[i + width];
    return lane[0];
}

INLINE float largest(vec x) {
#if defined(__AVX512VNNI__)
    return _mm512_reduce_max_ps((__m512)x);
#elif defined(__AVX2__)
    __m128 four = _mm_max_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
#else
    float most = x[0];
    for (int i = 1; i < LANES; i++) most = x[i] > most ? x[i] : most;
    return most;
#endif
}

INLINE int32_t most_of(ivec x) {
#if defined(__AVX512VNNI__)
    return _mm512_reduce_max_epi32((__m512i)x);
#elif defined(__AVX2__)
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
#else
    int32_t most = x[0];
    for (int i = 1; i < LANES; i++) most = x[i] > most ? x[i] : most;
    return most;
#endif
}

/* The sum of the lanes. */
INLINE int32_t sum_of(ivec x) {
#if defined(__AVX512VNNI__)
    return _mm512_reduce_add_epi32((__m512i)x);
#elif defined(__AVX2__)
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
#else
    int32_t sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
#endif
}

/* Stores lanes from -128 to 127 as bytes. */
INLINE void store_bytes(int8_t *p, ivec x) {
#if defined(__AVX512VNNI__)
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8((__m512i)x));
#elif defined(__AVX2__)
    __m128i low = _mm256_castsi256_si128((__m256i)x), high = _mm256_extracti128_si256((__m256i)x, 1);
    __m128i words = _mm_packs_epi32(low, high);
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(words, words));
#else
    *(bytes *)p = __builtin_convertvector(x, bytes);
#endif
}

/* e to the x, to about 2 ulp, for x from -87 to 87; below and above as at these ends (Cephes' polynomial). */
INLINE vec exponential(vec x) {
    x = pick(x > 87.0f, splat(87.0f), x);
    x = pick(x < -87.0f, splat(-87.0f), x);
    const vec magic = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vec n = fused(x, splat(1.44269504f), magic) - magic;
    vec r = fused(n, splat(2.12194440e-4f), fused(n, splat(-0.693359375f), x));
    vec p = splat(1.9875691500e-4f);
    p = fused(p, r, splat(1.3981999507e-3f));
    p = fused(p, r, splat(8.3334519073e-3f));
    p = fused(p, r, splat(4.1665795894e-2f));
    p = fused(p, r, splat(1.6666665459e-1f));
    p = fused(p, r, splat(5.0000001201e-1f));
    p = fused(p * r, r, r) + 1.0f;
    return (vec)((ivec)p + (__builtin_convertvector(n, ivec) << 23));
}

/* ------------------------------------------------------------------------------------ threads */

#define PATIENCE 20000 /* looks at what another thread does before sleeping: some tens of microseconds */

/* Returns once all threads have called it. A thread that waits for one which the system has set aside soon
 * sleeps, since spinning would keep the very core that the other needs. */
static void meet(workspace *s, int threads) {
    if (threads == 1) return;
    int32_t turn = __atomic_load_n(&s->turn, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&s->arrived, 1, __ATOMIC_ACQ_REL) == threads) {
        s->arrived = 0;
        __atomic_store_n(&s->turn, turn + 1, __ATOMIC_SEQ_CST);
#ifdef __linux__
        if (__atomic_load_n(&s->sleeping, __ATOMIC_SEQ_CST))
            syscall(SYS_futex, &s->turn, FUTEX_WAKE_PRIVATE, threads, 0, 0, 0);
#endif
        return;
    }
    for (int looks = 0; __atomic_load_n(&s->turn, __ATOMIC_ACQUIRE) == turn; looks++) {
        if (looks < PATIENCE) continue;
#ifdef __linux__
        __atomic_add_fetch(&s->sleeping, 1, __ATOMIC_SEQ_CST);
        syscall(SYS_futex, &s->turn, FUTEX_WAIT_PRIVATE, turn, 0, 0, 0);
        __atomic_sub_fetch(&s->sleeping, 1, __ATOMIC_SEQ_CST);
#else
        sched_yield();
#endif
    }
}

/* ------------------------------------------------------------------------------------ products */

/* Weights of eight bits are kept as w + 128, since the instructions of AVX-512 VNNI and AVX-VNNI multiply unsigned
 * bytes with signed ones; others take w. SHIFT is what the products of a weight are too large by. */
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
#define SHIFT 128
#else
#define SHIFT 0
#endif

#if !defined(__AVX2__) && !defined(__ARM_FEATURE_DOTPROD)
/* What `dot4` does; a call, since a copy of it for each place would take a compiler most of a minute. */
static __attribute__((noinline)) void plain_dot4(ivec *acc, const ivec *weights, int32_t x, int32_t less) {
    int8_t byte[4];
    uint8_t w[4 * LANES];
    memcpy(byte, &x, 4);
    memcpy(w, weights, sizeof w);
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < 4; j++) (*acc)[i] += (w[4 * i + j] - less) * byte[j];
}
#endif

/* acc + the products of each lane's four weights, of `bits` bits, with the four signed bytes in `x`. */
INLINE ivec dot4(ivec acc, ivec weights, int32_t x, const int bits) {
#if defined(__AVX512VNNI__)
    (void)bits;
    return (ivec)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)weights, _mm512_set1_epi32(x));
#elif defined(__AVXVNNI__)
    (void)bits;
    return (ivec)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)weights, _mm256_set1_epi32(x));
#elif defined(__AVX2__)
    const __m256i four = _mm256_set1_epi32(x);
    __m256i w = (__m256i)weights, size = w, sign = four;
    if (bits == 8) { /* |x| times w with x's sign: two such products, of at most 127 * 127, fit 16 bits */
        size = _mm256_abs_epi8(four);
        sign = _mm256_sign_epi8(_mm256_xor_si256(w, _mm256_set1_epi8(-128)), four);
    }
    return acc + (ivec)_mm256_madd_epi16(_mm256_maddubs_epi16(size, sign), _mm256_set1_epi16(1));
#elif defined(__ARM_FEATURE_DOTPROD)
    typedef union { ivec whole; int32x4_t half[2]; } halves;
    halves sum = {acc}, w = {bits == 8 ? weights ^ (int32_t)0x80808080 : weights};
    const int8x16_t four = vreinterpretq_s8_s32(vdupq_n_s32(x));
    for (int h = 0; h < 2; h++)
        sum.half[h] = vdotq_s32(sum.half[h], vreinterpretq_s8_s32(w.half[h]), four);
    return sum.whole;
#else
    plain_dot4(&acc, &weights, x, bits == 8 ? 128 : 0);
    return acc;
#endif
}

/* The weights of inputs `i` up to `i` + 4 of a tile's group: LANES times four bytes. */
INLINE ivec four_inputs(const uint8_t *group, int i, const int bits) {
    if (bits == 8) return *(const ivec *)(group + LANES * i);
    ivec both = *(const ivec *)(group + LANES * (i / 8 * 4));
    return (i % 8 ? both >> 4 : both) & 0x0f0f0f0f;
}

/* `size` values (a constant) as step * bytes, and the bytes' sum. */
INLINE void round_group(const float *x, const int size, int8_t *bytes, float *step, int32_t *sum) {
    /* Floats without a sign are in the order of their bits, NaN above all: what is no number stays none. */
    ivec most = {};
    for (int i = 0; i < size; i += LANES) {
        ivec size_of = (ivec)load(x + i) & 0x7fffffff, more = size_of > most;
        most = (more & size_of) | (~more & most);
    }
    int32_t bits = most_of(most);
    float peak;
    memcpy(&peak, &bits, sizeof peak);
    peak /= 127.0f;
    *step = peak < 1.17549435e-38f ? 1.17549435e-38f : peak;
    const vec magic = splat(12582912.0f), inverse = splat(1.0f / *step);
    ivec all = {};
    for (int i = 0; i < size; i += LANES) {
        ivec steps = __builtin_convertvector(load(x + i) * inverse + magic - magic, ivec);
        all += steps;
        store_bytes(bytes + i, steps);
    }
    *sum = sum_of(all);
}

/* Row `r` of the next product's input, x [k]. */
static void quantise(const workspace *s, int64_t r, const float *x, int64_t k) {
    int8_t *bytes = s->bytes + r * s->inputs;
    float *step = s->step + r * GROUPS(s->inputs);
    int32_t *sum = s->sums + r * GROUPS(s->inputs);
    int64_t i = 0;
    for (; i + GROUP <= k; i += GROUP) round_group(x + i, GROUP, bytes + i, step++, sum++);
    if (i < k) round_group(x + i, GROUP / 2, bytes + i, step, sum);
}

/* Adds to 2 * LANES outputs of `rows` rows what `size` inputs give (all constants), which share a step in a row. */
INLINE void add_group(const uint8_t *const weight[2], const int32_t *const pairs[2], const int8_t *x,
                      const float *step, const int32_t *sum, const workspace *s, const int rows, const int size,
                      const int bits, vec acc[MOST][2]) {
    const int64_t next = GROUPS(s->inputs);
    ivec part[MOST][2];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
        part[r][0] = part[r][1] = (ivec){} - (bits == 8 ? SHIFT : 8) * sum[r * next];
#pragma GCC unroll 8
    for (int i = 0; i < size; i += 4) {
        const ivec first = four_inputs(weight[0], i, bits), second = four_inputs(weight[1], i, bits);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, x + r * s->inputs + i, 4);
            part[r][0] = dot4(part[r][0], first, four, bits);
            part[r][1] = dot4(part[r][1], second, four, bits);
        }
    }
#pragma GCC unroll 2
    for (int b = 0; b < 2; b++) {
        const ivec pair = bits == 8 ? (ivec){} : *(const ivec *)pairs[b];
        const vec scale = (vec)(pair << 16), middle = (vec)(pair & (int32_t)0xffff0000);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            vec v = __builtin_convertvector(part[r][b], vec);
            if (bits == 4) v = fused(v, scale, middle * (float)sum[r * next]);
            acc[r][b] = fused(v, splat(step[r * next]), acc[r][b]);
        }
    }
}

/* 2 * LANES outputs of `rows` rows, with weights of `bits` bits (constants): out = or += x @ W.T, out [rows, width]. */
INLINE void tile(const linear *w, int64_t n, const workspace *s, int64_t row, const int rows, const int bits,
                 float *out, int64_t width, int add) {
    const int64_t k = w->k, bytes = LANES * k * bits / 8; /* of LANES outputs */
    const uint8_t *weight[2] = {w->weight + n / LANES * bytes, w->weight + (n / LANES + 1) * bytes};
    const int32_t *pairs[2] = {0, 0};
    if (bits == 4)
        for (int b = 0; b < 2; b++) pairs[b] = w->pairs + (n + b * LANES) * (k / GROUP);
    const int8_t *x = s->bytes + row * s->inputs;
    const float *step = s->step + row * GROUPS(s->inputs);
    const int32_t *sum = s->sums + row * GROUPS(s->inputs);
    vec acc[MOST][2];
    for (int r = 0; r < rows; r++) acc[r][0] = acc[r][1] = splat(0);
    int64_t i = 0;
    for (; i + GROUP <= k; i += GROUP) {
        add_group(weight, pairs, x + i, step++, sum++, s, rows, GROUP, bits, acc);
        for (int b = 0; b < 2; b++) {
            weight[b] += LANES * GROUP * bits / 8;
            if (bits == 4) pairs[b] += LANES;
        }
    }
    if (i < k) add_group(weight, pairs, x + i, step, sum, s, rows, GROUP / 2, bits, acc);
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < 2; b++) {
            int64_t at = n + b * LANES;
            vec v = acc[r][b];
            if (bits == 8) v *= load(w->scale + at);
            if (w->bias) v += load(w->bias + at);
            vec *place = (vec *)(out + (row + r) * width + at);
            if (add) v += *place;
            *place = v;
        }
}

/* A thread's share of x @ W.T for rows `from` up to `to`, x being what was quantised last. */
INLINE void share(const linear *w, const workspace *s, int64_t from, int64_t to, const int bits, float *out,
                  int64_t width, int add, int thread, int threads) {
    int64_t blocks = w->n / (2 * LANES);
    for (int64_t b = blocks * thread / threads; b < blocks * (thread + 1) / threads; b++) {
        int64_t row = from, n = b * 2 * LANES;
        for (; row + MOST <= to; row += MOST) tile(w, n, s, row, MOST, bits, out, width, add);
#if MOST > 4
        for (; row + 4 <= to; row += 4) tile(w, n, s, row, 4, bits, out, width, add);
#endif
        for (; row + 2 <= to; row += 2) tile(w, n, s, row, 2, bits, out, width, add);
        for (; row < to; row++) tile(w, n, s, row, 1, bits, out, width, add);
    }
}

static void multiply(const linear *w, const workspace *s, int64_t from, int64_t to, float *out, int64_t width,
                     int add, int thread, int threads) {
    if (w->pairs) share(w, s, from, to, 4, out, width, add, thread, threads);
    else share(w, s, from, to, 8, out, width, add, thread, threads);
}

/* ------------------------------------------------------------------------------------ rows */

/* x / rms(x) * weight, into y [dim]. */
static void norm(const float *x, const float *weight, int64_t dim, float eps, float *y) {
    vec sum = splat(0);
    for (int64_t i = 0; i < dim; i += LANES) sum = fused(load(x + i), load(x + i), sum);
    const vec scale = splat(1.0f / sqrtf(total(sum) / (float)dim + eps));
    for (int64_t i = 0; i < dim; i += LANES) *(vec *)(y + i) = load(x + i) * scale * load(weight + i);
}

/* silu(gate) * up of a row [2, ffn], into y [ffn]. */
static void gated(const float *row, int64_t ffn, float *y) {
    for (int64_t i = 0; i < ffn; i += LANES) {
        vec gate = load(row + i);
        *(vec *)(y + i) = gate / (1.0f + exponential(-gate)) * load(row + ffn + i);
    }
}

/* Rotates the pairs (i, i + half) of a head. */
static void rotate(float *x, const float *cosine, const float *sine, int64_t half) {
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

/* The step of an int8 row, and the row in steps. */
static float to_bytes(const float *x, int64_t n, float *steps) {
    float most = 1e-30f;
    for (int64_t i = 0; i < n; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    for (int64_t i = 0; i < n; i++) steps[i] = rintf(x[i] * (127.0f / most));
    return most / 127.0f;
}

/* Writes a position's key (rotated) and value of one head. */
static void remember(const cache *c, int64_t slot, int64_t d, int64_t position, const float *key,
                     const float *value) {
    int64_t first = slot * c->capacity * d;
    int64_t tile = first + position / LANES * LANES * d + position % LANES;
    int64_t row = first + position * d;
    if (!c->key_scale) {
        for (int64_t i = 0; i < d; i++) ((float *)c->keys)[tile + i * LANES] = key[i];
        memcpy((float *)c->values + row, value, d * sizeof(float));
        return;
    }
    float steps[d];
    c->key_scale[slot * c->capacity + position] = to_bytes(key, d, steps);
    for (int64_t i = 0; i < d; i++) ((int8_t *)c->keys)[tile + i * LANES] = (int8_t)steps[i];
    c->value_scale[slot * c->capacity + position] = to_bytes(value, d, steps);
    for (int64_t i = 0; i < d; i++) ((int8_t *)c->values)[row + i] = (int8_t)steps[i];
}

/* ------------------------------------------------------------------------------------ attention */

INLINE vec fetch(const void *p, int64_t at, const int packed) {
    return packed ? widen((const int8_t *)p + at) : load((const float *)p + at);
}

/* Scores of `count` queries (a constant) against STRIDE positions. */
INLINE void score(const float *const *query, const int count, const void *keys, int64_t d, const int packed,
                  float scale, const float *key_scale, float *scores, int64_t room, int64_t position) {
    vec acc[MOST][4];
    for (int q = 0; q < count; q++)
        for (int t = 0; t < 4; t++) acc[q][t] = splat(0);
    for (int64_t i = 0; i < d; i++) {
#pragma GCC unroll 4
        for (int t = 0; t < 4; t++) {
            vec key = fetch(keys, position * d + (t * d + i) * LANES, packed);
#pragma GCC unroll 6
            for (int q = 0; q < count; q++) acc[q][t] = fused(splat(query[q][i]), key, acc[q][t]);
        }
    }
    for (int q = 0; q < count; q++)
        for (int t = 0; t < 4; t++) {
            int64_t at = position + t * LANES;
            vec v = acc[q][t] * scale;
            if (packed) v *= load(key_scale + at);
            *(vec *)(scores + q * room + at) = v;
        }
}

/* Scores up to and with position `last` to weights that sum to one; zeros from there to `end`. */
static void softmax(float *scores, int64_t last, int64_t end, const float *value_scale) {
    ivec lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    vec most = splat(-INFINITY), sum = splat(0);
    for (int64_t at = 0; at <= last; at += LANES) {
        vec v = pick(lane + (int32_t)at <= (int32_t)last, load(scores + at), splat(-INFINITY));
        most = pick(v > most, v, most);
    }
    const vec peak = splat(largest(most));
    for (int64_t at = 0; at < end; at += LANES) {
        vec v = exponential(load(scores + at) - peak);
        v = pick(lane + (int32_t)at <= (int32_t)last, v, splat(0));
        sum += v;
        *(vec *)(scores + at) = v;
    }
    const vec scale = splat(1.0f / total(sum));
    for (int64_t at = 0; at <= last; at += LANES) {
        vec v = load(scores + at) * scale;
        if (value_scale) v *= load(value_scale + at);
        *(vec *)(scores + at) = v;
    }
}

/* `width` vectors (a constant) of what `count` queries take from the values of `end` positions. */
INLINE void gather(float *const *out, const int count, const void *values, int64_t d, const int packed,
                   const float *scores, int64_t room, int64_t end, int64_t column, const int width) {
    vec acc[MOST][4];
    for (int q = 0; q < count; q++)
        for (int v = 0; v < width; v++) acc[q][v] = splat(0);
    for (int64_t at = 0; at < end; at++) {
#pragma GCC unroll 4
        for (int v = 0; v < width; v++) {
            vec value = fetch(values, at * d + column + v * LANES, packed);
#pragma GCC unroll 6
            for (int q = 0; q < count; q++) acc[q][v] = fused(splat(scores[q * room + at]), value, acc[q][v]);
        }
    }
    for (int q = 0; q < count; q++)
        for (int v = 0; v < width; v++) *(vec *)(out[q] + column + v * LANES) = acc[q][v];
}

/* What `count` queries (a constant) of one key/value head take; written where the queries stood. */
INLINE void attend(float *const *query, const int64_t *last, const int count, const cache *c, int64_t slot,
                   int64_t d, const int packed, float *scores) {
    int64_t size = packed ? 1 : 4, first = slot * c->capacity, most = 0;
    const char *keys = (const char *)c->keys + first * d * size;
    const char *values = (const char *)c->values + first * d * size;
    const float *key_scale = packed ? c->key_scale + first : 0;
    const float *value_scale = packed ? c->value_scale + first : 0;
    for (int q = 0; q < count; q++) most = last[q] > most ? last[q] : most;
    int64_t end = (most + STRIDE) / STRIDE * STRIDE;
    float scale = 1.0f / sqrtf((float)d);
    for (int64_t at = 0; at < end; at += STRIDE)
        score((const float *const *)query, count, keys, d, packed, scale, key_scale, scores, c->capacity, at);
    for (int q = 0; q < count; q++) softmax(scores + q * c->capacity, last[q], end, value_scale);
    int64_t column = 0;
    for (; column + 4 * LANES <= d; column += 4 * LANES)
        gather(query, count, values, d, packed, scores, c->capacity, most + 1, column, 4);
    for (; column < d; column += LANES)
        gather(query, count, values, d, packed, scores, c->capacity, most + 1, column, 1);
}

static void attend_group(float *const *query, const int64_t *last, int count, const cache *c, int64_t slot,
                         int64_t d, float *scores) {
#define CASE(n)                                                                                                \
    case n:                                                                                                    \
        if (c->key_scale) attend(query, last, n, c, slot, d, 1, scores);                                       \
        else attend(query, last, n, c, slot, d, 0, scores);                                                    \
        break;
    switch (count) {
        CASE(1) CASE(2) CASE(3)
#if MOST == 6
        CASE(4) CASE(5) CASE(6)
#endif
    }
#undef CASE
}

/* Rotates a row's key and queries of one key/value head, and remembers key and value. */
static void place(const model *m, const cache *c, int64_t position, int64_t index, int64_t head, float *qkv,
                  const float *cosine, const float *sine) {
    int64_t d = m->head_dim, half = d / 2, group = m->heads / m->kv_heads;
    float *key = qkv + (m->heads + head) * d, *value = key + m->kv_heads * d;
    for (int64_t g = 0; g < group; g++)
        rotate(qkv + (head * group + g) * d, cosine + position * half, sine + position * half, half);
    rotate(key, cosine + position * half, sine + position * half, half);
    remember(c, index * m->kv_heads + head, d, position, key, value);
}

/* What one key/value head gives to all rows: queries of one cache share its keys. Counts the groups of
 * queries in `turn`, and computes each `threads`th of them. */
static void attention(const model *m, const batch *b, int64_t index, int64_t head, const workspace *s,
                      int64_t *turn, int thread, int threads) {
    int64_t d = m->head_dim, group = m->heads / m->kv_heads, next = 0;
    while (next < b->rows * group) {
        float *query[MOST];
        int64_t last[MOST];
        const cache *c = b->caches[next / group];
        int count = 0;
        for (; next < b->rows * group && count < MOST && b->caches[next / group] == c; next++, count++) {
            query[count] = s->wide + next / group * s->outputs + (head * group + next % group) * d;
            last[count] = b->positions[next / group];
        }
        if (threads == 1 || (*turn)++ % threads == thread)
            attend_group(query, last, count, c, index * m->kv_heads + head, d, s->scores[thread]);
    }
}

/* ------------------------------------------------------------------------------------ the pass */

#define EACH_ROW for (int64_t r = begin; r < end; r++)

/* One thread's share of a pass. Where there is one row, each thread prepares a product's input by itself,
 * which takes less time than to wait for another; else they share the rows. */
static void run(const model *m, const batch *b, float *logits, workspace *shared, int thread, int threads) {
    int64_t dim = m->dim, rows = b->rows, alone = rows == 1;
    int64_t begin = alone ? 0 : rows * thread / threads, end = alone ? 1 : rows * (thread + 1) / threads;
    workspace own = *shared, *s = &own;
    if (alone) { /* a row of its own for each thread's input */
        s->input += thread * s->inputs;
        s->bytes += thread * s->inputs;
        s->step += thread * GROUPS(s->inputs);
        s->sums += thread * GROUPS(s->inputs);
    }
#define MEET_IF_SHARED \
    if (!alone) meet(shared, threads)
#define INPUT (s->input + r * s->inputs)
#define WIDE (s->wide + r * s->outputs)
    for (int64_t r = thread; r < rows; r += threads)
        memcpy(s->x + r * dim, m->embedding + b->ids[r] * dim, dim * sizeof(float));
    meet(shared, threads);
    for (int64_t index = 0; index < m->layers; index++) {
        const layer *l = m->layer + index;
        EACH_ROW {
            norm(s->x + r * dim, l->attention_norm, dim, m->eps, INPUT);
            quantise(s, r, INPUT, dim);
        }
        MEET_IF_SHARED;
        multiply(&l->qkv, s, 0, rows, s->wide, s->outputs, 0, thread, threads);
        meet(shared, threads);
        int64_t turn = 0;
        for (int64_t h = 0; h < m->kv_heads; h++) {
            if (alone && h % threads == thread)
                place(m, b->caches[0], b->positions[0], index, h, s->wide, b->cosine, b->sine);
            if (!alone)
                EACH_ROW place(m, b->caches[r], b->positions[r], index, h, WIDE, b->cosine, b->sine);
        }
        MEET_IF_SHARED;
        for (int64_t h = 0; h < m->kv_heads; h++) {
            if (!alone) attention(m, b, index, h, s, &turn, thread, threads);
            else if (h % threads == thread) attention(m, b, index, h, s, &turn, thread, 1);
        }
        meet(shared, threads);
        EACH_ROW quantise(s, r, WIDE, l->o.k);
        MEET_IF_SHARED;
        multiply(&l->o, s, 0, rows, s->x, dim, 1, thread, threads);
        meet(shared, threads);
        EACH_ROW {
            norm(s->x + r * dim, l->feed_forward_norm, dim, m->eps, INPUT);
            quantise(s, r, INPUT, dim);
        }
        MEET_IF_SHARED;
        multiply(&l->gate_up, s, 0, rows, s->wide, s->outputs, 0, thread, threads);
        meet(shared, threads);
        EACH_ROW {
            gated(WIDE, m->ffn, INPUT);
            quantise(s, r, INPUT, m->ffn);
        }
        MEET_IF_SHARED;
        multiply(&l->down, s, 0, rows, s->x, dim, 1, thread, threads);
        meet(shared, threads);
    }
    int64_t first = rows - b->wanted;
    EACH_ROW if (r >= first) {
        norm(s->x + r * dim, m->norm, dim, m->eps, INPUT);
        quantise(s, r, INPUT, dim);
    }
    MEET_IF_SHARED;
    multiply(&m->head, s, first, rows, logits - first * m->head.n, m->head.n, 0, thread, threads);
}

/* How weights and keys are to be stored. */
const int64_t codellama_lanes = LANES;

/* Runs a batch; logits [wanted, head.n] of its last rows. */
void codellama_pass(const model *m, const batch *b, float *logits, workspace *s, int64_t threads) {
#ifdef _OPENMP
#pragma omp parallel num_threads((int)threads)
    run(m, b, logits, s, omp_get_thread_num(), omp_get_num_threads());
#else
    (void)threads;
    run(m, b, logits, s, 0, 1);
#endif
}

/* One product by itself, for measuring: out [rows, n] = x [rows, k] @ W.T. */
void codellama_product(const linear *w, const float *x, int64_t rows, float *out, workspace *s,
                       int64_t threads) {
    for (int64_t r = 0; r < rows; r++) quantise(s, r, x + r * w->k, w->k);
#ifdef _OPENMP
#pragma omp parallel num_threads((int)threads)
    multiply(w, s, 0, rows, out, w->n, 0, omp_get_thread_num(), omp_get_num_threads());
#else
    (void)threads;
    multiply(w, s, 0, rows, out, w->n, 0, 0, 1);
#endif
}
