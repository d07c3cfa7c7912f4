/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which frames does the router get? IPv4, IPv6, ARP and what is tagged for a VLAN go to the AF_XDP socket of the queue
 * that they came in on; all else (LLDP, LACP, STP, ...) and what comes in on a queue without a socket go on to the kernel.
 *
 * Where all_frames is set, the router gets those others too.
 *
 * The map has one entry for each receive queue of the one device that this instance is attached to.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

const volatile __u8 all_frames = 0;

SEC("xdp")
int sumun_redirect(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > end)
		return XDP_PASS;

	switch (eth->h_proto) {
	case bpf_htons(ETH_P_IP):
	case bpf_htons(ETH_P_IPV6):
	case bpf_htons(ETH_P_ARP):
	case bpf_htons(ETH_P_8021Q):
	case bpf_htons(ETH_P_8021AD):
		return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);
	default:
		if (all_frames)
			return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);
		return XDP_PASS;
	}
}

char _license[] SEC("license") = "Apache-2.0";
