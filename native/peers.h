/*
 * The threads that page other processes (peer.h), for the whole process; JavaScript owns peers through an `owner`, and hears of them through its notes.
 * Faults are answered whatever JavaScript does. None of the functions here may be called in a signal handler; all of them mask signals by themselves.
 */
#ifndef PF_PEERS_H
#define PF_PEERS_H

#include "peer.h"

#define PF_PEERS_MAX 4096
#define PF_OWNERS_MAX 64

typedef struct {
  uint64_t peer, offset;
  pf_peer_event_t event;
  pf_why_t why;
} pf_note_t;

/* *note_fd: an eventfd that is readable when there are notes; it belongs to the owner. 0 or -errno. */
int pf_peers_open(unsigned threads, uint32_t *owner, int *note_fd);
/* Ends the processes that are still paged, and with them the owner. */
void pf_peers_close(uint32_t owner);
/* Oldest first; how many there were. */
size_t pf_peers_take_notes(uint32_t owner, pf_note_t *out, size_t most);

/* *id: of the peer, while it is paged. 0 or -errno with nothing taken over. */
int pf_peers_add(uint32_t owner, const pf_peer_options_t *options, uint64_t *id);
/* Ends the process first, or leaves its memory to whoever else holds its userfaultfd. False: there is none of this id. */
bool pf_peers_remove(uint64_t id, bool kill);

typedef struct {
  pf_peer_numbers_t numbers;
  pf_peer_tid_t tids[PF_PEER_TIDS];
  uint64_t pages, age_ns, trace_count;
  uint64_t replay_left; /* of the list; 0: all of it was dealt with */
} pf_peer_view_t;
bool pf_peers_look(uint64_t id, pf_peer_view_t *out);
/* Where its memory is now: how many areas there are, of which up to `most` are written. -ESRCH. `stop`: it has no further turn, so that they stay true; all that is left
 * is to remove it. */
int64_t pf_peers_areas(uint64_t id, pf_area_t *out, size_t most, bool stop);
/* Of the record, from an index on. How many. */
size_t pf_peers_trace(uint64_t id, size_t from, uint32_t *pages, double *at_us, size_t most);
/* Pages of the snapshot to be brought ahead, in this order; what was not done of an earlier list is dropped. 0 or -errno. */
int pf_peers_replay(uint64_t id, const uint32_t *pages, size_t count);
bool pf_peers_retry(uint64_t id);

#endif
