/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What generator and sink know of each other: the stamp that is the first payload of UDP. pktgen/frame.rs has the same.
 *
 *  0      4        8           12             18
 *  | magic | whose | sequence  | ns, 48 bits  |        all of it in network byte order
 *
 * "Whose": 12 bits of the clock that the time is of, 20 bits of the flow. Flows have sequences of their own.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define MAGIC 0x53756d75
#define FLOW_BITS 20

#define ETH 14
#define IPV4 20
#define IPV6 40
#define UDP 8

struct stamp {
	__be32 magic;
	__be32 whose;
	__be32 sequence;
	__be16 time_high;
	__be16 time_middle;
	__be16 time_low;
} __attribute__((packed));
