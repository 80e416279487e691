// Sums over columns that blocks split among them: slices f32 (splits, r, b, channels), contiguous, which split_sum.cu adds up.
//
// The grid: x = r * ceil(b / ROWS) * ceil(channels / 64) * splits; position slowest, then examples, then channels, then split.
#pragma once
#include "tile.cuh"

// What a block works on.
struct Work {
    u32 position, example, channel; // the first of its examples and channels
    u32 split;
    u32 begin, end; // columns
};

// Shares of the columns are whole steps of SPAN, so that aligned rows stay aligned.
template <u32 ROWS, u32 SPAN> __device__ __forceinline__ Work find_work(u32 splits, u32 b, u32 channels, u32 columns) {
    u32 at = blockIdx.x;
    const u32 channel_tiles = ceil_div(channels, TILE), example_tiles = ceil_div(b, ROWS), spans = ceil_div(columns, SPAN);
    Work work;
    work.split = at % splits, at /= splits;
    work.channel = at % channel_tiles * TILE, at /= channel_tiles;
    work.example = at % example_tiles * ROWS;
    work.position = at / example_tiles;
    work.begin = u32(u64(spans) * work.split / splits) * SPAN;
    work.end = min(u32(u64(spans) * (work.split + 1) / splits) * SPAN, columns);
    return work;
}

// A parked tile of sums of `rows` examples from `example` on into the block's slice; added to what is there where `accumulate`.
__device__ __forceinline__ void write_partial(float *partial, const Work &work, u32 r, u32 b, u32 channels, const float *tile,
                                              u32 example, u32 rows, bool accumulate) {
    float *to = partial + ((u64(work.split) * r + work.position) * b + example) * channels + work.channel;
    for (u32 x = lane_id(); x < rows * TILE; x += 32) {
        const u32 row = x / TILE, channel = x % TILE;
        if (work.channel + channel >= channels) continue;
        float *at = to + u64(row) * channels + channel;
        const float sum = tile[row * OUT_PITCH + channel];
        *at = accumulate ? *at + sum : sum;
    }
}
