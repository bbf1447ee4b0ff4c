// scan_merge: the second pass of every scan, from what the blocks left to the best k, sorted.
//
// One block to a query. Where there are k blocks or more, the k-th best of their best keys is a
// floor that few keys reach; these are sorted in shared memory. Where more do than it holds, the
// k-th greatest key is found first, by counting its digits of 8 bits from the highest on: keys are
// unique, so that ends with the digit that tells the last of them apart.
//
// Reads the lists of blocks whose best key reaches the floor, some 100 of 100 to 200 keys, out of
// L2: latency, not bandwidth.
#include "scan.cuh"

constexpr int MERGE_THREADS = 512;
constexpr int MERGE_KEYS = 1024;  // the most that a query may ask for

// Calls take(key), by one thread each, for the keys of a query that reach `floor`.
template <class Take>
__device__ void each_key(const ScanArguments& a, int query, Key floor, const Take& take) {
    for (int block = warp(); block < a.blocks; block += MERGE_THREADS / 32) {
        const int64_t at = static_cast<int64_t>(block) * a.batch + query;
        const int count = a.best[at] >= floor ? a.counts[at] : 0;
        for (int i = lane(); i < count; i += 32) {
            const Key key = a.keys[at * a.queue + i];
            if (key >= floor) {
                take(key);
            }
        }
    }
}

// A key that the best k reach, if there are so many: 1 where fewer blocks do not tell a better one.
__device__ inline Key first_floor(const ScanArguments& a, int query, Key* keys) {
    if (a.blocks < a.k || a.blocks > MERGE_KEYS) {
        return 1;
    }
    const int size = power_of_two(a.blocks);
    for (int i = threadIdx.x; i < size; i += MERGE_THREADS) {
        keys[i] = i < a.blocks ? a.best[static_cast<int64_t>(i) * a.batch + query] : 0;
    }
    sort_keys(keys, size);
    const Key floor = keys[a.k - 1];
    __syncthreads();
    return floor ? floor : 1;
}

// The digit at which the counts, added from the highest digit down, reach `wanted`, which they do,
// and the count of the digits above it. One warp, 8 digits to a lane.
__device__ inline int2 find_digit(const int* histogram, int wanted) {
    const int top = 255 - 8 * lane();
    int own = 0;
    for (int i = 0; i < 8; ++i) {
        own += histogram[top - i];
    }
    int above = 0;  // in the lanes before
    for (int other = 0; other < 31; ++other) {
        const int count = __shfl_sync(WARP, own, other);
        above += other < lane() ? count : 0;
    }
    const int found = __ffs(__ballot_sync(WARP, above + own >= wanted)) - 1;
    int digit = top;
    while (lane() == found && above + histogram[digit] < wanted) {
        above += histogram[digit--];
    }
    return make_int2(__shfl_sync(WARP, digit, found), __shfl_sync(WARP, above, found));
}

// The k-th greatest key of a query, by its digits of 8 bits from the highest on, where more than k
// keys reach `floor`. All threads of the block; `histogram` has 256 numbers and 4 behind them.
__device__ inline Key find_floor(const ScanArguments& a, int query, Key floor, int* histogram) {
    Key prefix = 0;
    int wanted = a.k;
    for (int shift = 56; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < 256; i += MERGE_THREADS) {
            histogram[i] = 0;
        }
        __syncthreads();
        each_key(a, query, floor, [&](Key key) {
            if (shift == 56 || key >> (shift + 8) == prefix >> (shift + 8)) {
                atomicAdd(&histogram[static_cast<int>(key >> shift) & 255], 1);
            }
        });
        __syncthreads();
        if (warp() == 0) {
            const int2 digit = find_digit(histogram, wanted);
            if (lane() == 0) {
                histogram[256] = digit.x;
                histogram[257] = wanted - digit.y;
                histogram[258] = histogram[digit.x];
            }
        }
        __syncthreads();
        const int left = histogram[257], there = histogram[258];
        prefix |= static_cast<Key>(histogram[256]) << shift;
        if (left >= there) {  // all of this digit belong to the best
            break;
        }
        wanted = left;
    }
    return prefix;
}

// Copies the keys from `floor` on to shared memory, as far as they fit; returns how many there are.
__device__ inline int collect(const ScanArguments& a, int query, Key floor, Key* keys, int* found) {
    if (threadIdx.x == 0) {
        *found = 0;
    }
    for (int i = threadIdx.x; i < MERGE_KEYS; i += MERGE_THREADS) {
        keys[i] = 0;
    }
    __syncthreads();
    each_key(a, query, floor, [&](Key key) {
        const int place = atomicAdd(found, 1);
        if (place < MERGE_KEYS) {
            keys[place] = key;
        }
    });
    __syncthreads();
    return *found;
}

KERNEL(scan_merge, ScanArguments, MERGE_THREADS, 1) {
    Key* keys = reinterpret_cast<Key*>(shared_memory());         // (MERGE_KEYS)
    int* histogram = reinterpret_cast<int*>(keys + MERGE_KEYS);  // (256) and 4 more
    const int query = blockIdx.x;
    const Key floor = first_floor(a, query, keys);
    int count = collect(a, query, floor, keys, histogram + 259);
    if (count > MERGE_KEYS) {
        const Key higher = find_floor(a, query, floor, histogram);
        count = collect(a, query, higher, keys, histogram + 259);
    }
    sort_keys(keys, power_of_two(max(count, a.k)));
    const int64_t at = static_cast<int64_t>(query) * a.k;
    write_keys(keys, a.k, a.found + at, a.scores + at);
}
