/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts pools of pages that were to go while a receiver still had pages of theirs. The kernel asks such a pool again once a
 * second, and tells of it each time: as many are counted in a second as there are.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* The reader has the same layout: port/af_xdp/stalled.rs. */
#define BUCKETS 8
#define BUCKET_SHIFT 28

struct bucket {
	/* Of the kernel's monotonic clock, in buckets. */
	__u64 time;
	__u64 pools;
};

struct buckets {
	struct bucket of[BUCKETS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct buckets);
} stalled SEC(".maps");

/* Arguments: the pool, its pages that are elsewhere, pages it gave out and took back so far. */
SEC("raw_tp/page_pool_release")
int sumun_stalled(struct bpf_raw_tracepoint_args *args)
{
	__u32 zero = 0;
	struct buckets *buckets = bpf_map_lookup_elem(&stalled, &zero);

	if (!buckets || (__s32)args->args[1] <= 0)
		return 0;

	__u64 time = bpf_ktime_get_ns() >> BUCKET_SHIFT;
	struct bucket *bucket = &buckets->of[time % BUCKETS];

	/* Two CPUs that begin a bucket at once may lose a few. */
	if (bucket->time != time) {
		bucket->pools = 0;
		bucket->time = time;
	}
	__sync_fetch_and_add(&bucket->pools, 1);
	return 0;
}

char _license[] SEC("license") = "Apache-2.0";
