// Drawing a token from each of several truncated distributions, the fast twin of sampler.py's `_draw`. A histogram of the
// log-probabilities says how far down the support can reach; only candidates above that are put in order. A row's draw
// depends on that row alone.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

struct Candidate {
    float logp;
    int32_t id;
    bool operator<(const Candidate& other) const { return logp > other.logp || (logp == other.logp && id < other.id); }
};

constexpr int STRIPS = 512, PER_NAT = 16;  // strips of log-probability below the best
constexpr double MARGIN = 1e-5;            // more than rounding can move a probability across the edge of a strip

// Candidates below the returned log-probability are not in the support.
static float floor_of(const float* logp, int64_t V, int64_t top_k, double top_p, double min_p) {
    float best = *std::max_element(logp, logp + V);
    int64_t counted[STRIPS] = {};
    for (int64_t i = 0; i < V; i++) {
        float strip = (best - logp[i]) * PER_NAT;
        if (strip < STRIPS) counted[int(strip)]++;  // not what is no number
    }
    double least = std::exp(double(best)) * (1 - MARGIN), relative = 1 + MARGIN, step = std::exp(-1.0 / PER_NAT), mass = 0;
    int64_t count = 0;
    for (int strip = 0; strip < STRIPS; strip++) {
        least *= step;
        count += counted[strip];
        mass += counted[strip] * least;
        bool enough = top_k < V ? count >= top_k : mass >= top_p || relative < min_p;
        if (enough) return best - float(strip + 1) / PER_NAT;
        relative *= step;
    }
    return -INFINITY;
}

struct Drawn {
    int64_t id, kept;
    float logp;
};

// ids: where the support goes, most probable first.
static Drawn draw(const float* logp, int64_t V, int64_t top_k, double top_p, double min_p, double uniform, int32_t* ids) {
    float lowest = floor_of(logp, V, top_k, top_p, min_p);
    std::vector<Candidate> best;
    for (int64_t i = 0; i < V; i++)
        if (logp[i] >= lowest && logp[i] > -INFINITY) best.push_back({logp[i], int32_t(i)});
    if (best.empty()) return {0, 0, NAN};  // logits that are no numbers
    std::sort(best.begin(), best.end());
    if (top_k < int64_t(best.size())) best.resize(top_k);
    std::vector<double> p(best.size());
    double mass = 0;
    for (size_t i = 0; i < best.size(); i++) mass += p[i] = std::exp(double(best[i].logp));
    if (top_k >= V) mass = 1;  // else top-p counts what top-k left
    size_t kept = 0;
    double total = 0;
    while (kept < best.size() && (kept == 0 || (total / mass < top_p && p[kept] >= min_p * p[0]))) {
        ids[kept] = best[kept].id;
        total += p[kept++];
    }
    size_t place = 0;
    for (double passed = p[0]; place + 1 < kept && passed <= uniform * total; passed += p[place]) place++;
    return {best[place].id, int64_t(kept), float(best[place].logp - std::log(total))};
}

extern "C" void sample(const float* logp, const int64_t* top_k, const double* top_p, const double* min_p,
                       const double* uniform, int64_t* ids, float* drawn, int64_t* kept, int32_t* support, int64_t B,
                       int64_t V, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t b = 0; b < B; b++) {
        Drawn one = draw(logp + b * V, V, top_k[b], top_p[b], min_p[b], uniform[b], support + b * V);
        ids[b] = one.id;
        drawn[b] = one.logp;
        kept[b] = one.kept;
    }
}
