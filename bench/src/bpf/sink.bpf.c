/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sink: counts UDP over IPv4 and IPv6 and drops it. All else (ARP, NDP, ...) goes on to the kernel and is not counted.
 *
 * Where a packet has the generator's stamp, its sequence is judged as in RFC 4737 (section 3.3): it is reordered when it is less
 * than the next one that is expected of its flow. A flow's packets are taken to come in on one CPU, one after the other.
 */
#include "frame.h"

#define PROTO_UDP 17

/* pktgen/sink.rs has the same layouts. */
struct counts {
	__u64 packets;
	__u64 bytes;
	__u64 stamped;
	/* Not seen when a later one was. */
	__u64 missing;
	/* Of the missing ones, or another copy: seen after a later one. */
	__u64 reordered;
	/* Of these, how far the latest was behind, in packets of its flow. */
	__u64 furthest;
	/* Flows beyond the table. */
	__u64 untracked;
	/* By another machine's clock. */
	__u64 foreign;
};

struct order {
	__u32 next;
	__u32 seen;
};

/*
 * Latencies in ns, in buckets: below 32 one for each, then 32 for each power of two. The last takes what is more than
 * 2^40 ns.
 */
#define BUCKETS 1184

struct histogram {
	__u64 buckets[BUCKETS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counts);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct histogram);
} latencies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct order);
} orders SEC(".maps");

/* Of this machine, as the generator has it in its stamps. */
const volatile __u32 clock = 0;

static __always_inline __u32 bucket(__u64 ns)
{
	if (ns < 32)
		return ns;
	if (ns >> 40)
		return BUCKETS - 1;

	__u32 shift = 0;
	__u64 rest = ns >> 5;

	if (rest >> 16) { rest >>= 16; shift += 16; }
	if (rest >> 16) { rest >>= 16; shift += 16; }
	if (rest >> 8) { rest >>= 8; shift += 8; }
	if (rest >> 4) { rest >>= 4; shift += 4; }
	if (rest >> 2) { rest >>= 2; shift += 2; }
	if (rest >> 1) shift += 1;
	/* ns >> shift is from 32 to 63. */
	return shift * 32 + (ns >> shift);
}

static __always_inline void judge(struct counts *count, struct stamp *stamp)
{
	__u32 whose = bpf_ntohl(stamp->whose);
	__u32 flow = whose & ((1 << FLOW_BITS) - 1);
	__u32 sequence = bpf_ntohl(stamp->sequence);
	__u32 zero = 0;

	count->stamped++;

	struct order *order = bpf_map_lookup_elem(&orders, &flow);

	if (!order) {
		count->untracked++;
	} else {
		__s32 ahead = sequence - order->next;

		if (!order->seen || ahead >= 0) {
			if (order->seen)
				count->missing += ahead;
			order->seen = 1;
			order->next = sequence + 1;
		} else {
			count->reordered++;
			if (-ahead > count->furthest)
				count->furthest = -ahead;
		}
	}

	if (whose >> FLOW_BITS != clock) {
		count->foreign++;
		return;
	}

	__u64 sent = (__u64)bpf_ntohs(stamp->time_high) << 32 | (__u64)bpf_ntohs(stamp->time_middle) << 16 |
		     bpf_ntohs(stamp->time_low);
	__u64 took = (bpf_ktime_get_ns() - sent) & 0xffffffffffff;
	struct histogram *histogram = bpf_map_lookup_elem(&latencies, &zero);
	__u32 at = bucket(took);

	if (histogram && at < BUCKETS)
		histogram->buckets[at]++;
}

SEC("xdp")
int sumun_sink(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	__u32 zero = 0;
	int is_first = 1;
	void *udp;

	if (data + ETH + IPV4 + UDP > end)
		return XDP_PASS;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		__u8 words = *(__u8 *)(data + ETH) & 0xf;

		if (*(__u8 *)(data + ETH + 9) != PROTO_UDP)
			return XDP_PASS;
		/* Only the first fragment has what is looked for; the others count as packets. */
		is_first = !(*(__be16 *)(data + ETH + 6) & bpf_htons(0x1fff));
		udp = data + ETH + (words << 2);
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		if (*(__u8 *)(data + ETH + 6) != PROTO_UDP)
			return XDP_PASS;
		udp = data + ETH + IPV6;
	} else {
		return XDP_PASS;
	}

	struct counts *count = bpf_map_lookup_elem(&counts, &zero);

	if (!count)
		return XDP_PASS;
	count->packets++;
	count->bytes += end - data;

	struct stamp *stamp = udp + UDP;

	if (is_first && (void *)(stamp + 1) <= end && stamp->magic == bpf_htonl(MAGIC))
		judge(count, stamp);
	return XDP_DROP;
}

char _license[] SEC("license") = "Apache-2.0";
