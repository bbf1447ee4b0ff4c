// compose: the fused weighted composition of picture v and words u, in one launch.
//
//   hidden = relu(W1 [v; u] + b1)                     W1 (width, 2 width)
//   w_v    = sigmoid((z_0 - z_1) / temperature)       z = W2 hidden + b2, W2 (2, width)
//   q      = l2norm(w_v v + (1 - w_v) u)              sums in FP32, length at least 1e-6
//
// Outputs: q in FP32 and, where asked, FP16, INT8 with its scale (q = code * scale), one sign bit
// per number (1 where it is above 0, bit i of word j is number 32 j + i); and (w_v, 1 - w_v).
//
// Block (slice, group): ROWS queries, [v; u] of each in shared memory as FP32; a slice of the
// hidden units, one unit to a warp at a time, lane l holding 4 weights of every 128. Each block
// leaves its part of z in global memory; the group's last block adds the parts in their order and
// finishes, one warp to a query, lane l holding numbers l, l + 32, ...
//
// Reads W1 once for each group: 0.5 MB at width 256, spread over all multiprocessors. Bound by
// latency: three dependent trips to L2 (inputs and weights, parts, outputs), not by bandwidth.
#include "device.cuh"

constexpr int COMPOSE_THREADS = 256;
constexpr int COMPOSE_WARPS = COMPOSE_THREADS / 32;

struct ComposeArguments {
    const void* v;               // (batch, width) FP32 or FP16, aligned to their numbers
    const void* u;               // likewise
    const float* weight;         // (batch) w_v given by the caller, NaN: the gate's; or null
    const float* hidden_weight;  // (width, padded): 2 width numbers, then zeros; 16-byte aligned
    const float* hidden_bias;    // (width)
    const float* gate_weight;    // (2, width)
    const float* gate_bias;      // (2)
    float* parts;                // (groups, slices, ROWS, 2) scratch
    unsigned* arrivals;          // (groups) zeros before and after
    float* query;                // (batch, width)
    float* weights;              // (batch, 2)
    __half* half;                // (batch, half_stride), zeros behind width; or null
    int8_t* codes;               // (batch, code_stride), zeros behind width; or null
    float* scales;               // (batch), with codes
    uint32_t* signs;             // (batch, sign_stride), zeros behind width; or null
    int64_t v_stride;            // numbers from a row to the next
    int64_t u_stride;
    float temperature;
    int batch;
    int width;
    int padded;       // 2 width, rounded up to a multiple of 4
    int half_stride;  // numbers
    int code_stride;  // numbers
    int sign_stride;  // words
};

// Fills x (ROWS, padded) with [v; u] of the group's queries, zeros behind and for missing queries.
template <class Number, int ROWS>
__device__ void load_queries(const ComposeArguments& a, float* x) {
    for (int i = threadIdx.x; i < ROWS * a.padded; i += COMPOSE_THREADS) {
        const int64_t row = blockIdx.y * ROWS + i / a.padded;
        const int k = i % a.padded;
        float number = 0;
        if (row < a.batch && k < 2 * a.width) {
            const bool picture = k < a.width;
            const Number* side = static_cast<const Number*>(picture ? a.v : a.u);
            const int64_t stride = picture ? a.v_stride : a.u_stride;
            number = to_float(side[row * stride + (picture ? k : k - a.width)]);
        }
        x[i] = number;
    }
}

// Adds this warp's hidden units to z: the gate's two numbers of each query, equal in all lanes.
template <int ROWS>
__device__ void gate_of_slice(const ComposeArguments& a, const float* x, float (&z)[ROWS][2]) {
    const int step = gridDim.x * COMPOSE_WARPS;
    for (int unit = blockIdx.x * COMPOSE_WARPS + warp(); unit < a.width; unit += step) {
        const float bias = a.hidden_bias[unit];
        const float gate[2] = {a.gate_weight[unit], a.gate_weight[a.width + unit]};
        const float* weights = a.hidden_weight + static_cast<int64_t>(unit) * a.padded;
        float sum[ROWS] = {};
#pragma unroll 4
        for (int k = 4 * lane(); k < a.padded; k += 128) {
            const float4 w = *reinterpret_cast<const float4*>(weights + k);
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                const float4 y = *reinterpret_cast<const float4*>(x + r * a.padded + k);
                sum[r] += w.x * y.x + w.y * y.y + w.z * y.z + w.w * y.w;
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            const float hidden = fmaxf(warp_sum(sum[r]) + bias, 0.0f);
            z[r][0] += gate[0] * hidden;
            z[r][1] += gate[1] * hidden;
        }
    }
}

// Adds the warps' z and leaves them as this slice's part of its group.
template <int ROWS>
__device__ void leave_part(const ComposeArguments& a, const float (&z)[ROWS][2], float* shared) {
    if (lane() == 0) {
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            shared[warp() * 2 * ROWS + 2 * r] = z[r][0];
            shared[warp() * 2 * ROWS + 2 * r + 1] = z[r][1];
        }
    }
    __syncthreads();
    if (threadIdx.x < 2 * ROWS) {
        float sum = 0;
        for (int w = 0; w < COMPOSE_WARPS; ++w) {
            sum += shared[w * 2 * ROWS + threadIdx.x];
        }
        const int64_t part = static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
        a.parts[part * 2 * ROWS + threadIdx.x] = sum;
    }
}

// The share of the picture: the caller's, or the gate's out of all slices' parts.
template <int ROWS>
__device__ float picture_weight(const ComposeArguments& a, int r, int row) {
    float z[2] = {};
    for (int slice = lane(); slice < static_cast<int>(gridDim.x); slice += 32) {
        const int64_t part = static_cast<int64_t>(blockIdx.y) * gridDim.x + slice;
        z[0] += a.parts[part * 2 * ROWS + 2 * r];
        z[1] += a.parts[part * 2 * ROWS + 2 * r + 1];
    }
    const float gap = warp_sum(z[1]) - warp_sum(z[0]) + a.gate_bias[1] - a.gate_bias[0];
    const float given = a.weight ? a.weight[row] : nanf("");
    return isnan(given) ? 1.0f / (1.0f + expf(gap / a.temperature)) : given;
}

// Mixes, normalises and writes one query; one warp, y = [v; u] in shared memory.
__device__ inline void write_query(const ComposeArguments& a, int row, float share,
                                   const float* y) {
    const float other = 1.0f - share;
    float squares = 0, most = 0;
    for (int i = lane(); i < a.width; i += 32) {
        const float mixed = share * y[i] + other * y[a.width + i];
        squares += mixed * mixed;
        most = fmaxf(most, fabsf(mixed));
    }
    const float length = fmaxf(sqrtf(warp_sum(squares)), 1e-6f);
    const float scale = warp_max(most) / length / 127.0f;
    const int64_t at = row;
    const int end = max(max(a.width, a.half ? a.half_stride : 0),
                        max(a.codes ? a.code_stride : 0, a.signs ? 32 * a.sign_stride : 0));
    for (int first = 0; first < end; first += 32) {
        const int i = first + lane();
        float q = 0;
        if (i < a.width) {
            q = (share * y[i] + other * y[a.width + i]) / length;
            a.query[at * a.width + i] = q;
        }
        if (a.half && i < a.half_stride) {
            a.half[at * a.half_stride + i] = __float2half_rn(q);
        }
        if (a.codes && i < a.code_stride) {
            const float code = scale > 0 ? rintf(q / scale) : 0.0f;
            a.codes[at * a.code_stride + i] =
                static_cast<int8_t>(fminf(fmaxf(code, -127.0f), 127.0f));
        }
        const unsigned word = __ballot_sync(WARP, q > 0);
        if (a.signs && lane() == 0 && first / 32 < a.sign_stride) {
            a.signs[at * a.sign_stride + first / 32] = word;
        }
    }
    if (lane() == 0) {
        a.weights[2 * at] = share;
        a.weights[2 * at + 1] = other;
        if (a.codes) {
            a.scales[row] = scale;
        }
    }
}

template <class Number, int ROWS>
__device__ void compose(const ComposeArguments& a) {
    unsigned char* shared = shared_memory();
    float* x = reinterpret_cast<float*>(shared);  // (ROWS, padded)
    float* sums = x + ROWS * a.padded;            // (warps, ROWS, 2)
    float* end = sums + COMPOSE_WARPS * ROWS * 2;
    load_queries<Number, ROWS>(a, x);
    __syncthreads();
    float z[ROWS][2] = {};
    gate_of_slice<ROWS>(a, x, z);
    leave_part<ROWS>(a, z, sums);
    if (is_last_block(a.arrivals + blockIdx.y, gridDim.x, reinterpret_cast<unsigned*>(end))) {
        const int row = blockIdx.y * ROWS + warp();
        if (warp() < ROWS && row < a.batch) {
            const float share = picture_weight<ROWS>(a, warp(), row);
            write_query(a, row, share, x + warp() * a.padded);
        }
    }
}

KERNEL(compose_f32_1, ComposeArguments, COMPOSE_THREADS, 1) {
    compose<float, 1>(a);
}
KERNEL(compose_f32_4, ComposeArguments, COMPOSE_THREADS, 1) {
    compose<float, 4>(a);
}
KERNEL(compose_f16_1, ComposeArguments, COMPOSE_THREADS, 1) {
    compose<__half, 1>(a);
}
KERNEL(compose_f16_4, ComposeArguments, COMPOSE_THREADS, 1) {
    compose<__half, 4>(a);
}
