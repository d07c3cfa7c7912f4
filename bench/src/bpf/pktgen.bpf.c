/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The packet generator: run by BPF_PROG_TEST_RUN with live frames, once for each frame. It writes all headers anew, since pages
 * come back as the receiver left them, and redirects the frame to the device.
 *
 * The next flow is a stride away from the last one, so that a receiver does not meet its flows in the order in which it made them.
 * One run at a time: the state is not shared between CPUs.
 */
#include "frame.h"

#define MOST_LENGTHS 12
/* Of the headers, in words; the last two bytes of IPv4's lie in the payload. */
#define HEAD4 11
#define HEAD6 15
/* About 20 to 35 ns a turn: more than a millisecond. */
#define MOST_TURNS 65536

/* pktgen/live.rs has the same layouts. */
struct shape {
	/* Ethernet, IP and UDP, with zeros for what differs between frames. */
	__u32 head[16];
	/* Sums of the words of the IPv4 header and of the pseudo header with UDP's, as they lie in memory. */
	__u32 ip_sum;
	__u32 udp_sum;
	/* Low word of the first source address, in this machine's byte order. */
	__u32 source;
	__u16 sport;
	__u16 dport;
};

struct plan {
	struct shape shapes[2];
	__u32 lengths[MOST_LENGTHS];
	__u32 length_count;
	__u32 flows;
	__u32 stride;
	/* Family of even and of odd flows. */
	__u32 family[2];
	/* Bits of the stamp; no stamp is written where it is `~0`. */
	__u32 clock;
	/* Frames that leave together. */
	__u32 batch;
	/* Of a frame, in 1/256 ns; 0 is as fast as it goes. */
	__u32 pause;
};

struct state {
	__u64 sent;
	__u64 bytes;
	__u64 failed;
	/* When the next batch is due, in 1/256 ns. */
	__u64 due;
	__u32 flow;
	__u32 round;
	__u32 length;
	__u32 in_batch;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct plan);
} plans SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct state);
} states SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} devices SEC(".maps");

/* A frame may be late by ten milliseconds, in 1/256 ns: those behind it catch up. What is later is forgotten. */
#define LATEST (10000000ull << 8)

static __always_inline __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static long is_due(__u32 turn, __u64 *due)
{
	return bpf_ktime_get_ns() >= *due;
}

static __always_inline void wait_for_turn(struct plan *plan, struct state *state)
{
	__u64 now = bpf_ktime_get_ns() << 8;

	if (state->due + LATEST < now)
		state->due = now;
	if (state->due > now) {
		__u64 due = state->due >> 8;

		bpf_loop(MOST_TURNS, is_due, &due, 0);
	}
	state->due += (__u64)plan->pause * plan->batch;
}

/* Writes the stamp and returns the sum of its words. */
static __always_inline __u32 write_stamp(struct stamp *stamp, struct plan *plan, struct state *state)
{
	__u64 now = bpf_ktime_get_ns();
	__be32 whose = bpf_htonl(plan->clock << FLOW_BITS | state->flow);
	__be32 sequence = bpf_htonl(state->round);
	__be32 magic = bpf_htonl(MAGIC);
	__be16 high = bpf_htons(now >> 32), middle = bpf_htons(now >> 16), low = bpf_htons(now);

	stamp->magic = magic;
	stamp->whose = whose;
	stamp->sequence = sequence;
	stamp->time_high = high;
	stamp->time_middle = middle;
	stamp->time_low = low;
	return (magic & 0xffff) + (magic >> 16) + (whose & 0xffff) + (whose >> 16) + (sequence & 0xffff) +
	       (sequence >> 16) + high + middle + low;
}

SEC("xdp")
int sumun_pktgen(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct plan *plan = bpf_map_lookup_elem(&plans, &zero);
	struct state *state = bpf_map_lookup_elem(&states, &zero);

	if (!plan || !state)
		return XDP_DROP;

	if (plan->pause) {
		if (state->in_batch == 0)
			wait_for_turn(plan, state);
		if (++state->in_batch >= plan->batch)
			state->in_batch = 0;
	}

	__u32 slot = state->length;

	if (slot >= MOST_LENGTHS)
		return XDP_DROP;

	__u32 len = plan->lengths[slot];
	__u32 has = ctx->data_end - ctx->data;

	if (has != len && bpf_xdp_adjust_tail(ctx, (int)len - (int)has)) {
		state->failed++;
		return XDP_DROP;
	}

	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u32 flow = state->flow;
	__u32 is_v6 = plan->family[flow & 1] & 1;
	struct shape *shape = &plan->shapes[is_v6];
	__be16 sport = bpf_htons(shape->sport + (flow & 0x7fff));
	__be16 dport = bpf_htons(shape->dport + (flow >> 15));
	__be32 source = bpf_htonl(shape->source + (flow >> 3));
	__u32 sum = shape->udp_sum + sport + dport + (source & 0xffff) + (source >> 16);
	int stamped = plan->clock != ~0u;
	__u32 *to = data;

	if (is_v6) {
		if (data + ETH + IPV6 + UDP > end)
			goto failed;
		for (int i = 0; i < HEAD6; i++)
			to[i] = shape->head[i];
		__be16 udp_len = bpf_htons(len - ETH - IPV6);

		*(__be16 *)(data + 18) = udp_len;
		*(__be32 *)(data + 34) = source;
		*(__be16 *)(data + 54) = sport;
		*(__be16 *)(data + 56) = dport;
		*(__be16 *)(data + 58) = udp_len;
		/* Once in the pseudo header, once in UDP's. */
		sum += udp_len + udp_len;
		if (stamped && data + ETH + IPV6 + UDP + sizeof(struct stamp) <= end)
			sum += write_stamp(data + ETH + IPV6 + UDP, plan, state);
		*(__be16 *)(data + 60) = folded(sum) ?: 0xffff;
	} else {
		if (data + ETH + IPV4 + UDP + 2 > end)
			goto failed;
		for (int i = 0; i < HEAD4; i++)
			to[i] = shape->head[i];
		__be16 ip_len = bpf_htons(len - ETH);
		__be16 udp_len = bpf_htons(len - ETH - IPV4);

		*(__be16 *)(data + 16) = ip_len;
		*(__be16 *)(data + 24) = folded(shape->ip_sum + ip_len + (source & 0xffff) + (source >> 16));
		*(__be32 *)(data + 26) = source;
		*(__be16 *)(data + 34) = sport;
		*(__be16 *)(data + 36) = dport;
		*(__be16 *)(data + 38) = udp_len;
		sum += udp_len + udp_len;
		if (stamped && data + ETH + IPV4 + UDP + sizeof(struct stamp) <= end)
			sum += write_stamp(data + ETH + IPV4 + UDP, plan, state);
		*(__be16 *)(data + 40) = folded(sum) ?: 0xffff;
	}

	if (++slot >= plan->length_count)
		slot = 0;
	state->length = slot;
	flow += plan->stride;
	if (flow >= plan->flows)
		flow -= plan->flows;
	if (flow == 0)
		state->round++;
	state->flow = flow;

	if (bpf_redirect_map(&devices, 0, 0) != XDP_REDIRECT)
		goto failed;
	state->sent++;
	state->bytes += len;
	return XDP_REDIRECT;

failed:
	state->failed++;
	return XDP_DROP;
}

char _license[] SEC("license") = "Apache-2.0";
