/*
 * Inside of a peer (peer.h): which addresses of the other process show what, the states of its pages, and what its events (REMOVE, UNMAP,
 * REMAP, FORK) do to both. For peer_area.c, peer_serve.c and peer.c only. Lock of the peer held.
 */
#ifndef PF_PEER_AREA_H
#define PF_PEER_AREA_H

#include "peer.h"

#include <stdatomic.h>

static inline uint64_t pf_peer_page_size(const pf_peer_t *peer) { return 1ULL << peer->page_shift; }

/* Whoever waits for one of these pages asks again. */
static inline void pf_peer_wake(const pf_peer_t *peer, uint64_t address, uint64_t length) { pf_uffd_rouse(peer->uffd, address, length); }

/* The area of an address, or NULL. */
const pf_area_t *pf_area_at(const pf_peer_t *peer, uint64_t address);

/* Behind memory that was moved: an mremap that moves and grows tells only what it has moved. */
bool pf_area_has_grown(const pf_peer_t *peer, uint64_t address);

/* The index of the state of the page at an address of the area, and what it shows. */
static inline uint64_t pf_area_page(const pf_peer_t *peer, const pf_area_t *area, uint64_t address) {
  return area->first + ((address - area->start) >> peer->page_shift);
}
static inline uint64_t pf_area_offset(const pf_area_t *area, uint64_t address) { return area->offset + (address - area->start); }

/* Set-up: 0, -EINVAL (an area is empty, unaligned, or overlaps another one), -ENOMEM. */
int pf_peer_take_areas(pf_peer_t *peer, const pf_peer_options_t *options);

/* `sign` 1 or -1: a page in this state more, or less. */
void pf_peer_count_state(pf_peer_t *peer, uint8_t state, uint64_t sign);
void pf_peer_set_state(pf_peer_t *peer, uint64_t page, pf_peer_state_t state);

/* What the process has done to its memory. */
void pf_peer_apply(pf_peer_t *peer, const struct pf_uffd_msg *message);

/* Acted on: whoever goes on after us need not. A fault that is left there is of no consequence: its thread is woken, and asks again. */
static inline void pf_peer_strike(struct pf_uffd_msg *message) {
  atomic_signal_fence(memory_order_seq_cst); /* not before what it says is in the states: SIGKILL comes between any two instructions */
  message->event = 0;
}

/* The page cannot be had: never zeroes, so the process ends, or its thread waits. */
void pf_peer_fail(pf_peer_t *peer, const pf_area_t *area, uint64_t address, pf_why_t why);
/* Something that this pager cannot follow. */
void pf_peer_refuse(pf_peer_t *peer, uint64_t what);

/* Makes room for one more element of a list. False: there is no memory. */
bool pf_grow(void **list, size_t count, size_t *room, size_t element);

#endif
