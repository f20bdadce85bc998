// One decoding step of a few rows: all blocks of model/qwen.py, from embeddings to the final norm, in float32 with
// weights and cache in float32 or bfloat16. native.py compiles and calls it. Each row's arithmetic is the same in any
// company, so results do not depend on the batch.
#include <cmath>
#include <cstdint>
#include <cstring>

struct bf16 { uint16_t bits; };

static inline float wide(float x) { return x; }
static inline float wide(bf16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}
static inline void narrow(float x, float& out) { out = x; }
static inline void narrow(float x, bf16& out) {  // to nearest, ties to even
    uint32_t bits;
    memcpy(&bits, &x, 4);
    out.bits = uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// Pointers and sizes of one layer, as native.py packs them.
struct Layer {
    const void *attn_norm, *qkv, *qkv_bias, *out, *mlp_norm, *gate, *up, *down;
    void *keys, *values;
    int64_t room, ring;                  // slots of a row; the window that binds, or 0
    const float *cos, *sin, *query_scale;  // (B, D/2) each, (B) or null
};

typedef float Lanes __attribute__((vector_size(64)));
constexpr int64_t LANES = 16, TILE = 4;
constexpr int64_t STRETCH = 512;  // numbers of a weight row between requests for what comes next

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
static inline float sum(Lanes x) {
    float total = 0;
    for (int64_t i = 0; i < LANES; i++) total += x[i];
    return total;
}

// y[b * N + i] += w[i] x[b] for TILE weight rows and R of x. ahead: asks memory for the tile that comes next.
template <class T, int R>
static inline void tile(const T* const* w, const float* x, float* y, int64_t C, int64_t N, int64_t count, const T* ahead) {
    Lanes sums[TILE][R] = {};
    int64_t c = 0;
    for (int64_t low = 0; low < C; low += STRETCH) {
        int64_t high = low + STRETCH < C ? low + STRETCH : C;
        if (ahead)
            for (const char *p = (const char*)(ahead + TILE * low), *end = (const char*)(ahead + TILE * high); p < end; p += 64)
                __builtin_prefetch(p, 0, 3);
        for (; c + LANES <= high; c += LANES) {
            Lanes rows[R];
            for (int r = 0; r < R; r++) rows[r] = load(x + r * C + c);
            for (int i = 0; i < TILE; i++) {
                Lanes weight = load(w[i] + c);
                for (int r = 0; r < R; r++) sums[i][r] += weight * rows[r];
            }
        }
    }
    for (int64_t i = 0; i < count; i++)
        for (int r = 0; r < R; r++) {
            float total = sum(sums[i][r]);
            for (int64_t rest = c; rest < C; rest++) total += wide(w[i][rest]) * x[r * C + rest];
            y[r * N + i] += total;
        }
}

// y (B, N) += x (B, C) W^T: each weight is read from memory once and used for all rows.
template <class T>
static void product(const T* weight, const float* x, float* y, int64_t B, int64_t C, int64_t N, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t t = 0; t < (N + TILE - 1) / TILE; t++) {
        int64_t n = t * TILE, count = N - n < TILE ? N - n : TILE, b = 0;
        const T* w[TILE];
        for (int64_t i = 0; i < TILE; i++) w[i] = weight + (n + (i < count ? i : 0)) * C;
        const T* ahead = n + 2 * TILE <= N ? w[0] + TILE * C : nullptr;
        for (; b + 4 <= B; b += 4, ahead = nullptr) tile<T, 4>(w, x + b * C, y + b * N + n, C, N, count, ahead);
        for (; b + 2 <= B; b += 2, ahead = nullptr) tile<T, 2>(w, x + b * C, y + b * N + n, C, N, count, ahead);
        for (; b < B; b++, ahead = nullptr) tile<T, 1>(w, x + b * C, y + b * N + n, C, N, count, ahead);
    }
}

template <class T>
static void rms_norm(const T* weight, const float* x, float* y, int64_t B, int64_t C, float eps) {
    for (int64_t b = 0; b < B; b++) {
        float squares = 0;
        for (int64_t c = 0; c < C; c++) squares += x[b * C + c] * x[b * C + c];
        float factor = 1.0f / std::sqrt(squares / C + eps);
        for (int64_t c = 0; c < C; c++) y[b * C + c] = x[b * C + c] * factor * wide(weight[c]);
    }
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

// One query (D) over the first `count` slots of keys and values (count, D).
template <class T>
static void attend(const float* q, const T* keys, const T* values, float* scores, float* out, int64_t count, int64_t D) {
    float top = -INFINITY, total = 0, scale = 1.0f / std::sqrt(float(D));
    for (int64_t s = 0; s < count; s++) {
        float score = 0;
        for (int64_t d = 0; d < D; d++) score += q[d] * wide(keys[s * D + d]);
        scores[s] = score * scale;
        top = scores[s] > top ? scores[s] : top;
    }
    for (int64_t s = 0; s < count; s++) total += scores[s] = std::exp(scores[s] - top);
    for (int64_t d = 0; d < D; d++) out[d] = 0;
    for (int64_t s = 0; s < count; s++) {
        float p = scores[s] / total;
        for (int64_t d = 0; d < D; d++) out[d] += p * wide(values[s * D + d]);
    }
}

template <class T>
static void block(const Layer& l, float* x, float* work, const int64_t* rows, const int64_t* positions,
                  int64_t B, int64_t C, int64_t H, int64_t K, int64_t D, int64_t F, int64_t longest, float eps, int threads) {
    int64_t width = (H + 2 * K) * D;
    float *y = work, *qkv = y + B * C, *mixed = qkv + B * width, *gate = mixed + B * C, *up = gate + B * F;
    float* scores = up + B * F;
    rms_norm((const T*)l.attn_norm, x, y, B, C, eps);
    for (int64_t b = 0; b < B; b++)
        for (int64_t i = 0; i < width; i++) qkv[b * width + i] = wide(((const T*)l.qkv_bias)[i]);
    product((const T*)l.qkv, y, qkv, B, C, width, threads);
    for (int64_t b = 0; b < B; b++) {
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
    }
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t i = 0; i < B * H; i++) {
        int64_t b = i / H, h = i % H, count = positions[b] + 1;
        if (l.ring && l.ring < count) count = l.ring;
        int64_t line = (rows[b] * K + h / (H / K)) * l.room * D;
        attend(qkv + b * width + h * D, (const T*)l.keys + line, (const T*)l.values + line, scores + i * longest,
               mixed + b * C + h * D, count, D);
    }
    product((const T*)l.out, mixed, x, B, C, C, threads);
    rms_norm((const T*)l.mlp_norm, x, y, B, C, eps);
    memset(gate, 0, 2 * B * F * sizeof(float));
    product((const T*)l.gate, y, gate, B, C, F, threads);
    product((const T*)l.up, y, up, B, C, F, threads);
    for (int64_t i = 0; i < B * F; i++) gate[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
    product((const T*)l.down, gate, x, B, F, C, threads);
}

// x (B, C) float32: embeddings in, hidden states after the final norm out. work: B * (3C + 2KD + 2F + H * longest).
template <class T>
static void all(const Layer* layers, const void* norm, float* x, float* work, const int64_t* rows,
                const int64_t* positions, const int64_t* sizes, float eps) {
    auto [L, B, C, H, K, D, F, longest, threads] = *reinterpret_cast<const int64_t(*)[9]>(sizes);
    for (int64_t l = 0; l < L; l++)
        block<T>(layers[l], x, work, rows, positions, B, C, H, K, D, F, longest, eps, int(threads));
    rms_norm((const T*)norm, x, work, B, C, eps);
    memcpy(x, work, B * C * sizeof(float));
}

extern "C" {
void decode_fp32(const Layer* layers, const void* norm, float* x, float* work, const int64_t* rows,
                 const int64_t* positions, const int64_t* sizes, float eps) {
    all<float>(layers, norm, x, work, rows, positions, sizes, eps);
}
void decode_bf16(const Layer* layers, const void* norm, float* x, float* work, const int64_t* rows,
                 const int64_t* positions, const int64_t* sizes, float eps) {
    all<bf16>(layers, norm, x, work, rows, positions, sizes, eps);
}
void product_fp32(const float* weight, const float* x, float* y, int64_t B, int64_t C, int64_t N, int threads) {
    product(weight, x, y, B, C, N, threads);
}
void product_bf16(const bf16* weight, const float* x, float* y, int64_t B, int64_t C, int64_t N, int threads) {
    product(weight, x, y, B, C, N, threads);
}
}
