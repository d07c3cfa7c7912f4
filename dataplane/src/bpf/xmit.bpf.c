/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sends a worker's finished frames without an skb: run once for each by BPF_PROG_TEST_RUN with live frames, it puts the
 * next of them into the kernel's page and redirects that to the device.
 *
 * The worker writes both arrays through a mapping and then makes the call, so nobody else touches them while this runs.
 * It is never run for a packet that was received: the one device that it is attached to is the loopback device of a
 * network namespace where nothing is, which keeps it in the kernel's XDP dispatcher.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* The worker's side has the same layout: port/af_xdp/xmit.rs. */
#define SLOTS 256
#define SLOT_BYTES 3132
#define LEAST_FRAME 14
/* The most common length by far: the smallest frame of Ethernet. */
#define SMALL 60

struct slot {
	__u32 len;
	__u32 bytes[SLOT_BYTES / 4];
};

struct lane {
	/* Slot of the next frame. */
	__u32 next;
	/* Entry of the device. */
	__u32 port;
	/* Frames that were not handed to the device. */
	__u32 refused;
};

struct small {
	__u32 words[SMALL / 4];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lane);
} lane SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} devices SEC(".maps");

SEC("xdp")
int sumun_xmit(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct lane *worker = bpf_map_lookup_elem(&lane, &zero);

	if (!worker)
		return XDP_DROP;

	__u32 number = worker->next;

	worker->next = number + 1;

	struct slot *slot = bpf_map_lookup_elem(&slots, &number);

	if (!slot)
		goto refused;

	__u32 len = *(volatile __u32 *)&slot->len;

	if (len < LEAST_FRAME || len > SLOT_BYTES)
		goto refused;

	__u32 has = ctx->data_end - ctx->data;

	if (has != len && bpf_xdp_adjust_tail(ctx, (int)len - (int)has))
		goto refused;

	void *data = (void *)(long)ctx->data;

	if (len == SMALL && data + SMALL <= (void *)(long)ctx->data_end)
		*(struct small *)data = *(struct small *)slot->bytes;
	else if (bpf_xdp_store_bytes(ctx, 0, slot->bytes, len))
		goto refused;

	if (bpf_redirect_map(&devices, worker->port, 0) == XDP_REDIRECT)
		return XDP_REDIRECT;

refused:
	worker->refused++;
	return XDP_DROP;
}

char _license[] SEC("license") = "Apache-2.0";
