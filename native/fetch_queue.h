/*
 * The pages that guests wait for and their segments have to load, in the order in which they are taken on (peers_fetch.c). A line for each segment that has some, in it the
 * guests that have some, by turns, and of a guest the oldest first:
 *
 *     fresh ─▶ line (nothing of it at work) ──▶ guest ──▶ fault, fault, …
 *     going ─▶ line (1 to PF_FETCH_EACH - 1) ─▶ guest, guest
 *              line (PF_FETCH_EACH)             in neither: it is not looked at before something of it is done
 *
 * What holds: a store that does not answer has at most PF_FETCH_EACH threads, and half of PF_FETCH_MAX is for segments that have none at work, one each.
 * So three of them leave to any other all that it may have; 67 leave to each other one a thread at once; and where there are more, those of which nothing is at
 * work are next. Adding and taking on are O(1), but for the deadlines (a heap) and the lookup of a line (a hash table). Nothing here has a lock: all of it is
 * called under that of peers_fetch.c.
 */
#ifndef PF_FETCH_QUEUE_H
#define PF_FETCH_QUEUE_H

#include "peer.h"

#define PF_FETCH_EACH 16
#define PF_FETCH_MAX 128

typedef struct pf_fetch_line pf_fetch_line_t;
typedef struct pf_fetch pf_fetch_t;

/* A fault; the rest is the queue's own. */
struct pf_fetch {
  pf_peer_t *peer;
  uint64_t page, since_ns, deadline_ns;
  uint32_t tid;
  pf_fetch_line_t *line;
  pf_link_t link; /* of its guest's; when taken, whoever has it may use it */
  size_t at;      /* in the heap of deadlines */
};

static inline void pf_link_begin(pf_link_t *ring) { ring->next = ring->previous = ring; }
static inline bool pf_link_alone(const pf_link_t *ring) { return ring->next == ring || ring->next == NULL; }
static inline void pf_link_append(pf_link_t *ring, pf_link_t *link) {
  *link = (pf_link_t){ring, ring->previous};
  ring->previous->next = link;
  ring->previous = link;
}
static inline void pf_link_remove(pf_link_t *link) {
  link->previous->next = link->next;
  link->next->previous = link->previous;
  *link = (pf_link_t){NULL, NULL};
}
#define PF_LINKED(link, type, member) ((type *)(void *)((char *)(link) - offsetof(type, member)))

/* Waits from here on. False: there is no memory. */
bool pf_fetch_add(pf_fetch_t *fetch);
/* Whether there is one that may be taken on now. */
bool pf_fetch_may(void);
/* The next one, which is at work from here on until pf_fetch_done. NULL: none may be taken on. */
pf_fetch_t *pf_fetch_take(void);
void pf_fetch_done(const pf_fetch_t *fetch);
/* How many are at work. */
unsigned pf_fetch_at_work(void);

/* The earliest of those that wait, or UINT64_MAX. */
uint64_t pf_fetch_deadline(void);
/* One that waits and whose deadline is over; it is in the queue no more. Or NULL. */
pf_fetch_t *pf_fetch_take_late(uint64_t now_ns);
/* One of the guest's that waits; it is in the queue no more. Or NULL. */
pf_fetch_t *pf_fetch_take_of(pf_peer_t *peer);

#endif
