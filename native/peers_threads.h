/*
 * What the threads that page other processes (peers.h) share. Four kinds, all of them with every signal masked:
 *
 *     attending   (peers.c) serve the messages of peers
 *     fetching    (peers_fetch.c) have a segment load a page that a fault needs
 *     keeping     (there, too) one that fails faults which none of those has taken on before their deadline
 *     replaying   (peers_replay.c) bring pages ahead
 *
 * Locks: the table's, then a peer's, then the notes' or a queue's. Nobody waits for a store under any of them.
 */
#ifndef PF_PEERS_THREADS_H
#define PF_PEERS_THREADS_H

#include "peer.h"

#define PF_PEERS_STACK 262144 /* of a thread */

/* --- peers.c --- */

/* A peer's lock for whoever serves: one that replays lets go of it. */
void pf_peers_lock(pf_peer_t *peer);
void pf_peers_drop(pf_peer_t *peer);
/* Tells the owner. Whoever finds no room is not heard of. */
void pf_peers_tell(pf_peer_t *peer, pf_peer_event_t event, uint64_t offset, pf_why_t why);
/* One turn of the peer; how many messages it had. */
unsigned pf_peers_turn(pf_peer_t *peer);

/* --- peers_fetch.c --- */

/* A host's function (peer.h): the peer's lock is held. */
bool pf_peers_fetch(pf_peer_t *peer, uint64_t page, uint32_t tid, uint64_t since_ns);
/* Faults of the peer that wait for a thread are nobody's any more: it is closing. */
void pf_peers_forget(pf_peer_t *peer);
/* Pages [first, end) of the segment are there, and held until pf_peers_unload. False: nothing is held. `deadline_ns` 0: nobody waits for them, and each has its own time. */
bool pf_peers_load(pf_region_t *region, uint64_t first, uint64_t end, uint64_t deadline_ns, pf_why_t *why, _Atomic uint32_t *cancel);
void pf_peers_unload(pf_region_t *region, uint64_t first, uint64_t end);
/* The segment's pages under `length` bytes at `offset`, within it. */
void pf_peers_pages_under(const pf_region_t *region, uint64_t offset, uint64_t length, uint64_t *first, uint64_t *end);

/* --- peers_replay.c --- */

/* Pages of the snapshot to be brought ahead, instead of those that are left of an earlier list. 0 or -errno. */
int pf_peers_replay_list(pf_peer_t *peer, const uint32_t *pages, size_t count);

#endif
