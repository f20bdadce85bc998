// One decoding step of a few rows: all blocks of model/qwen.py, from embeddings to the final norm, with weights and cache
// in float32 or bfloat16, matrices also in 8 bits, and sums in float32. native.py compiles and calls it. Each row's
// arithmetic is the same in any company, so results do not depend on the batch: a product sums along lanes, and lanes
// are summed in one order.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

struct bf16 { uint16_t bits; };

static inline float wide(float x) { return x; }
static inline float wide(bf16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}
static inline float wide(int8_t x) { return x; }
static inline void narrow(float x, float& out) { out = x; }
static inline void narrow(float x, bf16& out) {  // to nearest, ties to even
    uint32_t bits;
    memcpy(&bits, &x, 4);
    out.bits = uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// Of 8 bits: what each row of codes is multiplied with; else null.
struct Matrix {
    const void* weight;
    const float* scale;
};

// Pointers and sizes of one layer, as native.py packs them.
struct Layer {
    const void* attn_norm;
    Matrix qkv;
    const void* qkv_bias;
    Matrix out;
    const void* mlp_norm;
    Matrix gate, up, down;
    void *keys, *values;
    int64_t room, ring;                  // slots of a row; the window that binds, or 0
    const float *cos, *sin, *query_scale;  // (B, D/2) each, (B) or null
};

typedef float Lanes __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
constexpr int64_t LANES = 16, SUMS = 16;

static inline Lanes load(const float* from) {
    Lanes out;
    memcpy(&out, from, sizeof out);
    return out;
}
static inline Lanes load(const bf16* from) {
    typedef uint16_t Halves __attribute__((vector_size(32)));
    typedef uint32_t Words __attribute__((vector_size(64)));
    Halves halves;
    memcpy(&halves, from, sizeof halves);
    Words words = __builtin_convertvector(halves, Words) << 16;
    Lanes out;
    memcpy(&out, &words, sizeof out);
    return out;
}
static inline Lanes load(const int8_t* from) {
#ifdef __AVX512F__
    return (Lanes)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)from)));
#else
    typedef int8_t Bytes __attribute__((vector_size(16)));
    Bytes bytes;
    memcpy(&bytes, from, sizeof bytes);
    return __builtin_convertvector(__builtin_convertvector(bytes, Ints), Lanes);
#endif
}

// What a weight of type T is multiplied with: the processor's product of bfloat16 pairs takes both sides so.
#ifdef __AVX512BF16__
template <class T> using Factor = std::conditional_t<std::is_same_v<T, bf16>, bf16, float>;
#else
template <class T> using Factor = float;
#endif

// A vector of numbers as they are multiplied, STEP of them, and sums + w x of two such.
template <class W, class X> struct Pairs {
    static constexpr int64_t STEP = LANES;
    typedef Lanes Vector;
    template <class N> static inline Lanes read(const N* from) {
        Lanes out = load(from);
#ifdef __AVX512F__
        asm("" : "+v"(out));  // keeps compilers from reading it again for each product
#endif
        return out;
    }
    static inline Lanes add(Lanes sums, Lanes w, Lanes x) { return sums + w * x; }
};
#ifdef __AVX512BF16__
template <> struct Pairs<bf16, bf16> {
    static constexpr int64_t STEP = 2 * LANES;
    typedef __m512bh Vector;
    static inline Vector read(const bf16* from) { return (Vector)_mm512_loadu_si512(from); }
    static inline Lanes add(Lanes sums, Vector w, Vector x) { return (Lanes)_mm512_dpbf16_ps((__m512)sums, w, x); }
};
#endif

// Number i of the result is the sum of the lanes of sums[i].
static inline Lanes total(const Lanes (&sums)[SUMS]) {
#ifdef __AVX512F__
    __m512 halves[8], quarters[4], pairs[2];  // what is left of i, i + 8, and of those with i + 4, shares a vector
    for (int i = 0; i < 8; i++) {
        __m512 a = (__m512)sums[i], b = (__m512)sums[i + 8];
        halves[i] = _mm512_shuffle_f32x4(a, b, 0x44) + _mm512_shuffle_f32x4(a, b, 0xEE);
    }
    for (int i = 0; i < 4; i++)
        quarters[i] = _mm512_shuffle_f32x4(halves[i], halves[i + 4], 0x88) + _mm512_shuffle_f32x4(halves[i], halves[i + 4], 0xDD);
    for (int i = 0; i < 2; i++)
        pairs[i] = _mm512_unpacklo_ps(quarters[i], quarters[i + 2]) + _mm512_unpackhi_ps(quarters[i], quarters[i + 2]);
    __m512 mixed = _mm512_unpacklo_ps(pairs[0], pairs[1]) + _mm512_unpackhi_ps(pairs[0], pairs[1]);
    const __m512i order = _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15);  // 8 to 11 stand before 4 to 7
    return (Lanes)_mm512_permutexvar_ps(order, mixed);
#else
    Lanes out;
    for (int64_t i = 0; i < SUMS; i++) {
        out[i] = 0;
        for (int64_t l = 0; l < LANES; l++) out[i] += sums[i][l];
    }
    return out;
#endif
}

// Asks memory for what is read a little later, into the second cache.
static inline void ask(const void* from, int64_t bytes) {
    for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch((const char*)from + line, 0, 1);
}

// y[r * SUMS + i] = w[i] x[r] for R rows of x and SUMS / R of the weights, `count` of them true, up to the last whole
// vector: a loop over what is left, though it were never entered, would cost a tenth here.
// Of few rows, one weight row after the other, as memory is read fastest: four at a time got two thirds of that, and
// asking ahead only cost. Of four rows, four weights at a time: what was loaded serves four products.
template <int R, class T, class X>
static inline void tile(const T* w, const X* x, float* y, int64_t C, int64_t count) {
    using P = Pairs<T, X>;
    constexpr int W = R < 4 ? 1 : 4, EACH = SUMS / R;
    const int64_t even = C / P::STEP * P::STEP;
    Lanes sums[SUMS];
    for (int g = 0; g < EACH; g += W) {
        const T* rows[W];
        for (int i = 0; i < W; i++) rows[i] = w + std::min<int64_t>(g + i, count - 1) * C;
        Lanes part[R][W] = {};
        for (int64_t c = 0; c < even; c += P::STEP) {
            typename P::Vector xs[R];
            for (int r = 0; r < R; r++) xs[r] = P::read(x + r * C + c);
            for (int i = 0; i < W; i++) {
                typename P::Vector weight = P::read(rows[i] + c);
                for (int r = 0; r < R; r++) part[r][i] = P::add(part[r][i], weight, xs[r]);
            }
        }
        for (int r = 0; r < R; r++)
            for (int i = 0; i < W; i++) sums[r * EACH + g + i] = part[r][i];
    }
    const Lanes totals = total(sums);
    for (int r = 0; r < R; r++)
        for (int i = 0; i < EACH; i++) y[r * SUMS + i] = totals[r * EACH + i];
}

// y (B, N) += x (B, C) W^T: each weight is read from memory once and used for all rows.
template <class T, class X>
static void multiply(const T* weight, const float* scale, const X* x, float* y, int64_t B, int64_t C, int64_t N, int threads) {
    const int64_t fours = B / 4 * 4, twos = B / 2 * 2, even = C / Pairs<T, X>::STEP * Pairs<T, X>::STEP;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t n = 0; n < N; n += SUMS) {
        const int64_t width = std::min(SUMS, N - n);
        thread_local std::vector<float> made;  // (B, SUMS): rows of y may lie where they drive each other out of caches
        made.resize(B * SUMS);
        float* out = made.data();
        auto at = [&](int64_t i) { return weight + (n + i) * C; };
        for (int64_t i = 0; i < width && fours; i += 4) {
            const int64_t count = std::min<int64_t>(4, width - i);
            for (int64_t b = 0; b < fours; b += 4) {  // each asks for its share of what comes 16 rows later
                const int64_t from = 4 * C * b / fours, to = 4 * C * (b + 4) / fours;
                ask(at(i + SUMS) + from, (to - from) * sizeof(T));
                tile<4>(at(i), x + b * C, out + b * SUMS + i, C, count);
            }
        }
        for (int64_t i = 0; i < width && twos > fours; i += 8)
            tile<2>(at(i), x + fours * C, out + fours * SUMS + i, C, std::min<int64_t>(8, width - i));
        if (B > twos) tile<1>(at(0), x + twos * C, out + twos * SUMS, C, width);
        for (int64_t c = even; c < C; c++)
            for (int64_t b = 0; b < B; b++)
                for (int64_t i = 0; i < width; i++) out[b * SUMS + i] += wide(at(i)[c]) * wide(x[b * C + c]);
        for (int64_t b = 0; b < B; b++)
            for (int64_t i = 0; i < width; i++) y[b * N + n + i] += out[b * SUMS + i] * (scale ? scale[n + i] : 1.0f);
    }
}

// Calls f for each of B rows; a few are not worth waking threads for.
template <class F>
static inline void rows_of(int64_t B, int threads, F f) {
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1 && B >= 16)
    for (int64_t b = 0; b < B; b++) f(b);
}

template <class T>
static void product(Matrix matrix, const float* x, float* y, int64_t B, int64_t C, int64_t N, int threads) {
    const T* weight = (const T*)matrix.weight;
    if constexpr (std::is_same_v<Factor<T>, float>) {
        multiply(weight, matrix.scale, x, y, B, C, N, threads);
    } else {
        thread_local std::vector<T> kept;
        kept.resize(B * C);
        T* narrowed = kept.data();
        rows_of(B, threads, [=](int64_t b) {
            for (int64_t i = b * C; i < (b + 1) * C; i++) narrow(x[i], narrowed[i]);
        });
        multiply(weight, matrix.scale, narrowed, y, B, C, N, threads);
    }
}

// e^x, to 2e-7 of itself; 0 below -87.
static inline Lanes exponential(Lanes x) {
    x = x > 88.0f ? Lanes{} + 88.0f : x;
    Lanes doublings = x * 1.44269504f;
    Ints whole = __builtin_convertvector(doublings + (doublings > 0 ? Lanes{} + 0.5f : Lanes{} - 0.5f), Ints);
    Lanes r = x - __builtin_convertvector(whole, Lanes) * 0.693147181f, out = Lanes{} + 1.0f / 5040;
    for (float inverse : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) out = out * r + inverse;
    Ints power = (whole + 127) << 23;
    Lanes scale;
    memcpy(&scale, &power, sizeof scale);
    return x < -87.0f ? Lanes{} : out * scale;
}

// f of each of `count` numbers at x, in place, a vector at a time; f may read 15 numbers more of another array.
template <class F>
static inline void each(float* x, int64_t count, F f) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        Lanes done = f(load(x + i), i);
        memcpy(x + i, &done, sizeof done);
    }
    if (i == count) return;
    Lanes last = {};
    memcpy(&last, x + i, (count - i) * sizeof(float));
    last = f(last, i);
    memcpy(x + i, &last, (count - i) * sizeof(float));
}

template <class T>
static void rms_norm(const T* weight, const float* x, float* y, int64_t B, int64_t C, float eps, int threads) {
    rows_of(B, threads, [=](int64_t b) {
        float squares = 0;
        for (int64_t c = 0; c < C; c++) squares += x[b * C + c] * x[b * C + c];
        float factor = 1.0f / std::sqrt(squares / C + eps);
        for (int64_t c = 0; c < C; c++) y[b * C + c] = x[b * C + c] * factor * wide(weight[c]);
    });
}

// Rotates the first `heads` heads of D dimensions at x.
static void rotate(float* x, const float* cos, const float* sin, int64_t heads, int64_t D) {
    for (int64_t h = 0; h < heads; h++, x += D)
        for (int64_t j = 0; j < D / 2; j++) {
            float first = x[j], second = x[j + D / 2];
            x[j] = first * cos[j] - second * sin[j];
            x[j + D / 2] = second * cos[j] + first * sin[j];
        }
}

// scores (count) = K q, for keys (count, D). next: what is read after them, of the same size.
template <class T>
static inline void match(const float* q, const T* keys, float* scores, int64_t count, int64_t D, const T* next) {
    for (int64_t s = 0; s < count; s += SUMS) {
        const int64_t here = std::min(SUMS, count - s);
        const T* key = keys + s * D;
        Lanes sums[SUMS];
        ask(next + s * D, here * D * sizeof(T));
        for (int64_t i = 0; i < SUMS; i++) {
            Lanes one = {};
            for (int64_t d = 0; d + LANES <= D; d += LANES) one += load(key + d) * load(q + d);
            sums[i] = one;
            if (i + 1 < here) key += D;
        }
        const Lanes totals = total(sums);
        memcpy(scores + s, &totals, here * sizeof(float));
        for (int64_t i = 0; i < here; i++)
            for (int64_t d = D / LANES * LANES; d < D; d++) scores[s + i] += q[d] * wide(keys[(s + i) * D + d]);
    }
}

// out (D) = p V over `count` slots, for V vectors of values (count, D). next as above.
template <int V, class T>
static inline void gather(const float* p, const T* values, float* out, int64_t count, int64_t D, const T* next) {
    Lanes sums[V] = {};
    for (int64_t s = 0; s < count; s++) {
        ask(next + s * D, V * LANES * sizeof(T));
        for (int v = 0; v < V; v++) sums[v] += p[s] * load(values + s * D + v * LANES);
    }
    memcpy(out, sums, sizeof sums);
}

// One query (D) over the first `count` slots of keys and values (count, D). next: the keys of the query to come.
template <class T>
static void attend(const float* q, const T* keys, const T* values, float* scores, float* out, int64_t count, int64_t D, const T* next) {
    float top = -INFINITY, sum = 0, scale = 1.0f / std::sqrt(float(D));
    match(q, keys, scores, count, D, values);
    for (int64_t s = 0; s < count; s++) top = std::max(top, scores[s]);
    each(scores, count, [=](Lanes x, int64_t) { return exponential((x - top) * scale); });
    for (int64_t s = 0; s < count; s++) sum += scores[s];
    for (int64_t s = 0; s < count; s++) scores[s] /= sum;
    int64_t d = 0;
    for (; d + 4 * LANES <= D; d += 4 * LANES) gather<4>(scores, values + d, out + d, count, D, next + d);
    for (; d + LANES <= D; d += LANES) gather<1>(scores, values + d, out + d, count, D, next + d);
    for (; d < D; d++) {
        out[d] = 0;
        for (int64_t s = 0; s < count; s++) out[d] += scores[s] * wide(values[s * D + d]);
    }
}

// W: of the matrices' weights; T: of everything else.
template <class W, class T>
static void block(const Layer& l, float* x, float* work, const int64_t* rows, const int64_t* positions,
                  int64_t B, int64_t C, int64_t H, int64_t K, int64_t D, int64_t F, int64_t longest, float eps, int threads) {
    int64_t width = (H + 2 * K) * D;
    float *y = work, *qkv = y + B * C, *mixed = qkv + B * width, *gate = mixed + B * C, *up = gate + B * F;
    float* scores = up + B * F;
    rms_norm((const T*)l.attn_norm, x, y, B, C, eps, threads);
    for (int64_t b = 0; b < B; b++)
        for (int64_t i = 0; i < width; i++) qkv[b * width + i] = wide(((const T*)l.qkv_bias)[i]);
    product<W>(l.qkv, y, qkv, B, C, width, threads);
    rows_of(B, threads, [=](int64_t b) {
        float* row = qkv + b * width;
        rotate(row, l.cos + b * D / 2, l.sin + b * D / 2, H + K, D);
        if (l.query_scale)
            for (int64_t i = 0; i < H * D; i++) row[i] *= l.query_scale[b];
        int64_t slot = l.ring ? positions[b] % l.ring : positions[b];
        for (int64_t k = 0; k < K; k++) {
            int64_t line = ((rows[b] * K + k) * l.room + slot) * D;
            for (int64_t d = 0; d < D; d++) {
                narrow(row[(H + k) * D + d], ((T*)l.keys)[line + d]);
                narrow(row[(H + K + k) * D + d], ((T*)l.values)[line + d]);
            }
        }
    });
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t i = 0; i < B * H; i++) {
        int64_t b = i / H, h = i % H, count = positions[b] + 1;
        if (l.ring && l.ring < count) count = l.ring;
        auto at = [&](int64_t i) { return (rows[i / H] * K + i % H / (H / K)) * l.room * D; };
        const T *keys = (const T*)l.keys + at(i), *values = (const T*)l.values + at(i);
        const T* next = (const T*)l.keys + at(std::min(i + 1, B * H - 1));
        attend(qkv + b * width + h * D, keys, values, scores + i * longest, mixed + b * C + h * D, count, D, next);
    }
    product<W>(l.out, mixed, x, B, C, C, threads);
    rms_norm((const T*)l.mlp_norm, x, y, B, C, eps, threads);
    memset(gate, 0, 2 * B * F * sizeof(float));
    product<W>(l.gate, y, gate, B, C, F, threads);
    product<W>(l.up, y, up, B, C, F, threads);
    rows_of(B, threads, [=](int64_t b) {
        const float* own = up + b * F;
        each(gate + b * F, F, [=](Lanes g, int64_t i) { return g / (1.0f + exponential(-g)) * load(own + i); });
    });
    product<W>(l.down, gate, x, B, F, C, threads);
}

// x (B, C) float32: embeddings in, hidden states after the final norm out. work: B * (3C + 2KD + 2F + H * longest) + 16.
template <class W, class T>
static void all(const Layer* layers, const void* norm, float* x, float* work, const int64_t* rows,
                const int64_t* positions, const int64_t* sizes, float eps) {
    auto [L, B, C, H, K, D, F, longest, threads] = *reinterpret_cast<const int64_t(*)[9]>(sizes);
    for (int64_t l = 0; l < L; l++)
        block<W, T>(layers[l], x, work, rows, positions, B, C, H, K, D, F, longest, eps, int(threads));
    rms_norm((const T*)norm, x, work, B, C, eps, int(threads));
    memcpy(x, work, B * C * sizeof(float));
}

extern "C" {
#define DECODE(name, W, T)                                                                                          \
    void decode_##name(const Layer* layers, const void* norm, float* x, float* work, const int64_t* rows,           \
                       const int64_t* positions, const int64_t* sizes, float eps) {                                 \
        all<W, T>(layers, norm, x, work, rows, positions, sizes, eps);                                              \
    }
#define PRODUCT(name, W)                                                                                            \
    void product_##name(const void* weight, const float* scale, const float* x, float* y, int64_t B, int64_t C,     \
                        int64_t N, int threads) {                                                                   \
        product<W>({weight, scale}, x, y, B, C, N, threads);                                                        \
    }
DECODE(fp32, float, float)
DECODE(bf16, bf16, bf16)
DECODE(int8_fp32, int8_t, float)
DECODE(int8_bf16, int8_t, bf16)
PRODUCT(fp32, float)
PRODUCT(bf16, bf16)
PRODUCT(int8, int8_t)
}
