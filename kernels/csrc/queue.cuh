// The best rows that one block has seen, for each of its queries.
//
// Candidates wait unsorted in global memory, where they stay in L2; their number and the floor that
// the next one has to reach are in shared memory. `push` is rare once the floor has risen. When a
// queue runs full, one warp finds a higher floor by bisection over the keys and drops what lies
// below. The best k of the rows pushed so far are always there.
#pragma once
#include "key.cuh"

constexpr int QUEUE_ROOM = 1024;  // a queue holds k and so many more
constexpr int QUEUE_SPARE = 128;  // `trim` may leave so many above k: fewer steps

struct Queue {
    Key* keys;      // (queries, capacity), global
    int* counts;    // (queries), shared, as all below
    Key* floors;    // a key below cannot be among the best k
    float* scores;  // the floors' scores: a number below cannot either
    int queries;
    int capacity;
    int k;

    static constexpr int SHARED_BYTES = sizeof(Key) + sizeof(float) + sizeof(int);  // a query

    __device__ Queue(unsigned char* shared, int places, Key* global, int queries, int capacity,
                     int k)
        : keys(global), queries(queries), capacity(capacity), k(k) {
        floors = reinterpret_cast<Key*>(shared);
        scores = reinterpret_cast<float*>(floors + places);
        counts = reinterpret_cast<int*>(scores + places);
        for (int q = threadIdx.x; q < places; q += blockDim.x) {
            floors[q] = 1;
            scores[q] = __uint_as_float(q < queries ? 0xff7fffffu : 0x7f800000u);
            counts[q] = 0;
        }
    }

    // For a score that reaches scores[query]; NaN does not.
    __device__ void push(int query, float score, int row) {
        const Key key = key_of(score, row);
        if (key >= floors[query]) {
            const int place = atomicAdd(&counts[query], 1);
            keys[static_cast<int64_t>(query) * capacity + place] = key;
        }
    }

    // Makes room for at least `rows` more. All threads of the block call it.
    __device__ void settle(int rows) {
        bool full = false;
        for (int q = threadIdx.x; q < queries; q += blockDim.x) {
            full |= counts[q] > capacity - rows;
        }
        if (__syncthreads_or(full)) {
            for (int q = warp(); q < queries; q += blockDim.x / 32) {
                if (counts[q] > capacity - rows) {
                    trim(q);
                }
            }
            __syncthreads();
        }
    }

    // Drops what cannot be among the best k of a query. One warp.
    __device__ void trim(int query) {
        Key* mine = keys + static_cast<int64_t>(query) * capacity;
        const int count = counts[query];
        Key low = floors[query];     // at least k keys reach it, if there are so many
        Key high = best(query) + 1;  // no key reaches it
        for (int kept = count; kept > k + QUEUE_SPARE;) {
            const Key middle = low + (high - low) / 2;
            const int reach = count_from(mine, count, middle);
            if (reach >= k) {
                low = middle;
                kept = reach;
            } else {
                high = middle;
            }
        }
        const int kept = compact(mine, count, low);
        if (lane() == 0) {
            counts[query] = kept;
            floors[query] = low;
            scores[query] = low > 1 ? score_of(low) : scores[query];
        }
        __syncwarp();
    }

    // The best key of a query, 0 where there is none. One warp.
    __device__ Key best(int query) const {
        const Key* mine = keys + static_cast<int64_t>(query) * capacity;
        Key most = 0;
        for (int i = lane(); i < counts[query]; i += 32) {
            most = mine[i] > most ? mine[i] : most;
        }
        return warp_max(most);
    }

private:
    __device__ static int count_from(const Key* keys, int count, Key floor) {
        int found = 0;
#pragma unroll 4
        for (int i = lane(); i < count; i += 32) {
            found += keys[i] >= floor;
        }
        return warp_sum(found);
    }

    // Moves the keys from `floor` on to the front, in place: a place is read before it is written.
    __device__ static int compact(Key* keys, int count, Key floor) {
        int kept = 0;
        for (int first = 0; first < count; first += 32) {
            const int i = first + lane();
            const Key key = i < count ? keys[i] : 0;
            const unsigned stays = __ballot_sync(WARP, key >= floor);
            if (key >= floor) {
                keys[kept + __popc(stays & ((1u << lane()) - 1))] = key;
            }
            kept += __popc(stays);
            __syncwarp();
        }
        return kept;
    }
};
