/* The practical limit of tiles.py: Gaussian kernel sums in one pass over queries and keys.

   Mass Σ_j 2^(−|q − z_j|²) and total Σ_j 2^(−|q − z_j|²) y_j, for points that the caller has scaled
   so that 2^(−s) is the Gaussian. Distances are differences; a power of two is a polynomial on
   [−½, ½] and the exponent's bits. QUERIES × VECTORS vectors of pairs are in flight, and mass and
   total stay in registers while a chunk of keys lies in the cache.

   Compile with -DFEATURES=d and, for float32, -DSINGLE; the vectors are as wide as the CPU's. */

#include <stddef.h>
#include <stdint.h>

#define QUERIES (FEATURES < 8 ? 4 : 6)
#define VECTORS 2
#define CHUNK_BYTES 98304

#ifdef SINGLE
typedef float real;
typedef int32_t bits;
#define MANTISSA_BITS 23
#define LARGEST 125.0f
#else
typedef double real;
typedef int64_t bits;
#define MANTISSA_BITS 52
#define LARGEST 1021.0
#endif

#if defined(__AVX512F__)
#include <immintrin.h>
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef bits ivec __attribute__((vector_size(VECTOR_BYTES)));
#define LANES ((ptrdiff_t)(VECTOR_BYTES / sizeof(real)))
#define ALL(value) ((vec){0} + (real)(value))
#define INLINE static inline __attribute__((always_inline))

/* (−log 2)^i / i!: the remainder on [−½, ½] is below rounding */
static const real COEFFICIENTS[] = {
    1.0, -0.69314718055994530942, 0.24022650695910071233, -0.055504108664821579953,
    0.0096181291076284771619, -0.0013333558146428443423, 0.00015403530393381609954,
#ifndef SINGLE
    -1.5252733804059840280e-05, 1.3215486790144309488e-06, -1.0178086009239699728e-07,
    7.0549116208011233299e-09, -4.4455382718708114976e-10,
#endif
};
#define DEGREE ((int)(sizeof(COEFFICIENTS) / sizeof(COEFFICIENTS[0])) - 1)

/* x = k + r with an integer k: return k, and leave r in x */
INLINE vec split(vec *x)
{
#if defined(__AVX512F__) && defined(SINGLE)
    vec k = _mm512_roundscale_ps(*x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__AVX512F__)
    vec k = _mm512_roundscale_pd(*x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    const real magic = (real)((bits)3 << (MANTISSA_BITS - 1)); /* its last bit is worth 1 */
    ivec far = *x > LARGEST;                                   /* 2^(−x) must not be denormal */
    *x = (vec)(((ivec)*x & ~far) | ((ivec)ALL(LARGEST) & far));
    vec k = (*x + magic) - magic;
#endif
    *x -= k;
    return k;
}

/* p 2^(−k) */
INLINE vec scaled(vec p, vec k)
{
#if defined(__AVX512F__) && defined(SINGLE)
    return _mm512_scalef_ps(p, -k);
#elif defined(__AVX512F__)
    return _mm512_scalef_pd(p, -k);
#else
    const real magic = (real)((bits)3 << (MANTISSA_BITS - 1));
    return (vec)((ivec)p + ((ivec)(magic - k) << MANTISSA_BITS));
#endif
}

INLINE double lane_sum(vec v)
{
    double sum = 0;
    for (int lane = 0; lane < LANES; lane++)
        sum += v[lane];
    return sum;
}

/* Add to mass and total of n_queries what the keys [first, last) give. */
INLINE void pass(const real *keys, ptrdiff_t stride, const real *y, ptrdiff_t first, ptrdiff_t last,
                 const real *queries, const int n_queries, double *mass, double *total)
{
    vec masses[QUERIES], totals[QUERIES];
    for (int i = 0; i < n_queries; i++)
        masses[i] = totals[i] = ALL(0);
    for (ptrdiff_t j = first; j < last; j += VECTORS * LANES) {
        vec s[QUERIES][VECTORS];
#pragma GCC unroll 64
        for (int f = 0; f < FEATURES; f++)
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; v++) {
                const vec z = *(const vec *)(keys + f * stride + j + v * LANES);
                /* broadcast from memory: hoisted out of the loop, the copies would not fit */
                __asm__("" : "+r"(queries));
#pragma GCC unroll 8
                for (int i = 0; i < n_queries; i++) {
                    const vec step = z - queries[i * FEATURES + f];
                    s[i][v] = f ? s[i][v] + step * step : step * step;
                }
            }
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) {
            const vec value = *(const vec *)(y + j + v * LANES);
            vec k[QUERIES], weight[QUERIES];
#pragma GCC unroll 8
            for (int i = 0; i < n_queries; i++) {
                k[i] = split(&s[i][v]);
                weight[i] = ALL(COEFFICIENTS[DEGREE]);
            }
#pragma GCC unroll 16
            for (int power = DEGREE - 1; power >= 0; power--)
#pragma GCC unroll 8
                for (int i = 0; i < n_queries; i++)
                    weight[i] = weight[i] * s[i][v] + COEFFICIENTS[power];
#pragma GCC unroll 8
            for (int i = 0; i < n_queries; i++) {
                weight[i] = scaled(weight[i], k[i]);
                masses[i] += weight[i];
                totals[i] += weight[i] * value;
            }
        }
    }
    for (int i = 0; i < n_queries; i++) {
        mass[i] += lane_sum(masses[i]);
        total[i] += lane_sum(totals[i]);
    }
}

/* How many keys a call takes must be a multiple of this. */
ptrdiff_t key_multiple(void)
{
    return VECTORS * LANES;
}

/* Keys (FEATURES, n) and y (n), aligned to 64 bytes; queries (m, FEATURES); adds to mass and total. */
void kernel_sums(const real *keys, const real *y, ptrdiff_t n, const real *queries, ptrdiff_t m,
                 double *mass, double *total)
{
    const ptrdiff_t whole = VECTORS * LANES;
    const ptrdiff_t chunk = CHUNK_BYTES / (ptrdiff_t)sizeof(real) / (FEATURES + 1) / whole * whole;
    for (ptrdiff_t first = 0; first < n; first += chunk) {
        const ptrdiff_t last = first + chunk < n ? first + chunk : n;
        ptrdiff_t i = 0;
        for (; i + QUERIES <= m; i += QUERIES)
            pass(keys, n, y, first, last, queries + i * FEATURES, QUERIES, mass + i, total + i);
        for (; i < m; i++)
            pass(keys, n, y, first, last, queries + i * FEATURES, 1, mass + i, total + i);
    }
}
