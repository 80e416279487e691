// The labels of a mini-batch, in whatever integers the caller has them.
#pragma once
#include "types.cuh"

constexpr u32 NO_CLASS = ~0u;

// What is negative or not below `classes` is no class: its example has a target of zeros.
struct Labels {
    const void *data; // (b); null: none
    i64 stride;       // in elements
    u32 kind;         // 0 u8, 1 i32, 2 u32, 3 i64
    u32 classes;

    __device__ __forceinline__ u32 at(u32 i) const {
        const i64 place = i64(i) * stride;
        u64 label; // negative ones become large
        if (kind == 0)
            label = __ldg(static_cast<const unsigned char *>(data) + place);
        else if (kind == 3)
            label = __ldg(static_cast<const u64 *>(data) + place);
        else
            label = __ldg(static_cast<const u32 *>(data) + place);
        return label < classes ? u32(label) : NO_CLASS;
    }
};
static_assert(sizeof(Labels) == 24, "mirrored by the host");
