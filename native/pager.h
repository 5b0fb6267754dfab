/* Pages that a pager's thread brings, which runs a store in JavaScript (pager.c, queue.c, answer.c, abandon.c); and stores that wait for each other. */
#ifndef PF_PAGER_H
#define PF_PAGER_H

#include "page.h"

#define PF_PAGER_SLOTS 128

/* The result of an order that a thread of ours waits for; it lives until the thread has seen it. */
typedef struct {
  _Atomic uint32_t done; /* futex */
  pf_why_t why;
} pf_ticket_t;

typedef struct {
  uint32_t slot, store, access; /* pf_access_t */
  uint64_t offset;
  uint32_t length;    /* of what the store has of the page, or the pages */
  uint64_t timeout_ms;
} pf_order_t;

/* Made on the thread that will serve. */
int pf_pager_create(pf_pager_t **out, int *event_fd);
uint64_t pf_pager_id(const pf_pager_t *pager);
pf_pager_t *pf_pager_by_id(uint64_t id); /* NULL when that pager is gone */
/* Asks for a page that the caller moved to LOADING and charged. False with the reason: the page is still the caller's. */
bool pf_pager_ask(pf_region_t *region, uint64_t page, uint32_t access, pf_wait_t *wait, pf_why_t *why);
/* Asks about a page that the caller owns (INSTALLING) whether it may be written. On success the answer settles it. */
bool pf_pager_ask_on_write(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why);
/* Asks to write pages that are held, or (count 0) to sync. False with the reason: nothing was asked. */
bool pf_pager_ask_write(pf_region_t *region, uint64_t page, uint32_t count, pf_ticket_t *ticket, pf_wait_t *wait, pf_why_t *why);
/* Waits for it; past the deadline the order is taken away. */
void pf_pager_await(pf_region_t *region, pf_ticket_t *ticket, pf_wait_t *wait);
/* Asks to write pages that are EVICTING and closed; pf_pages_written_back follows. False: no slot is free now, or the pager is gone. */
bool pf_pager_ask_write_back(pf_region_t *region, uint64_t page, uint32_t count);
/* The serving thread: copies the bytes of a write order into the slot's buffer. Bytes, -1: the order is gone, -2: the buffer is too small. */
int64_t pf_pager_fetch(pf_pager_t *pager, uint32_t slot);
/* The serving thread, of an order that it has not answered: nobody waits for the answer any more. */
bool pf_pager_given_up(const pf_pager_t *pager, uint32_t slot);
/* Asks for pages nobody waits for, in one read, if a slot is free. False: they are still the caller's. More than one come together or not at all; then they are
 * ABSENT, whatever the reason. */
bool pf_pager_ask_ahead(pf_region_t *region, uint64_t page, uint32_t count);
/* Somebody waits for this page. If it is asked for ahead, and the store was not called for it yet, it is now as if it had been asked for by whoever waits. A hint;
 * in a handler too. */
void pf_pager_hurry(pf_region_t *region, uint64_t page);
/* For a region that it will serve: NULL when it is gone or dead. */
pf_pager_t *pf_pager_hold_by_id(uint64_t id);
void pf_pager_drop(pf_pager_t *pager);
/* The serving thread: the next order, the oldest of those that somebody waits for, else the oldest, which has its turn also where others keep on coming; false
 * when there is none (then it may sleep: the event fd will be written). */
bool pf_pager_next(pf_pager_t *pager, pf_order_t *out);
/* The slot's memory, if it has at least len bytes; NULL otherwise. */
uint8_t *pf_pager_buffer(pf_pager_t *pager, uint32_t slot, size_t len);
/* Gives the slot memory; it stays the caller's to free, once the slot was retired or the pager is dead. */
void pf_pager_set_buffer(pf_pager_t *pager, uint32_t slot, uint8_t *bytes, size_t len);
/* Answers; masks signals itself where it must. bytes -1: zeroes. Returns 1 when the page must be read again (it went stale), else 0: the slot is free. */
int pf_pager_complete(pf_pager_t *pager, uint32_t slot, int64_t bytes);
void pf_pager_fail(pf_pager_t *pager, uint32_t slot, pf_why_t why, const char *message, const char *cause, bool retire_buffer);
void pf_pager_count_retry(pf_pager_t *pager, uint32_t slot);
/* Fails everything that waits, and all that comes. Any thread; again: nothing. */
void pf_pager_kill(pf_pager_t *pager, const char *reason);
/* Its thread stops serving: the descriptor is closed. After pf_pager_kill. */
void pf_pager_closed(pf_pager_t *pager);
void pf_pager_set_owner(pf_pager_t *pager, void *owner);
void *pf_pager_owner(const pf_pager_t *pager);
/* The kernel's number of its thread. */
int pf_pager_tid(const pf_pager_t *pager);

/* What a pager is at, as far as can be seen without stopping it. */
typedef struct {
  bool asked, taken;      /* the page has an order; its Worker has taken it */
  uint32_t access;        /* of that */
  uint64_t since_ns;      /* when it was asked, or taken */
  uint32_t orders_waiting, orders_taken; /* of all regions, this one among them */
  uint64_t oldest_waiting_ns, oldest_taken_ns; /* since when, 0: none */
  uint64_t answered_ns;   /* when it last answered anything, 0: never */
} pf_pager_seen_t;

void pf_pager_look(const pf_region_t *region, uint64_t page, pf_pager_seen_t *out);
/* True on the thread that made it. */
bool pf_pager_is_mine(const pf_pager_t *pager);
bool pf_pager_is_dead(const pf_pager_t *pager);
/* Why it died, "" while it lives. */
const char *pf_pager_reason(const pf_pager_t *pager);
/* True when the calling thread, or the one that it waits for, is the one that would have to bring the page. */
bool pf_pager_is_me(const pf_pager_t *pager, const pf_wait_t *wait);
/* True while an order owns the page: only the pager's answer lets it go. */
bool pf_pager_has(pf_region_t *region, uint64_t page);
/* Gives up on a page's order, for a waiter whose deadline is over. False: there is none (any more). */
bool pf_pager_abandon(pf_region_t *region, uint64_t page);
/* Takes every order of the region away, when it closes. */
void pf_pager_forget(pf_region_t *region);
/* Called by the serving thread from time to time: gives it all its CPUs back when no stopped thread has needed it lately.
 * True while it is bound to one. */
bool pf_pager_relax(pf_pager_t *pager);
unsigned pf_pager_descriptors(void);

/* --- deadlock.c: stores that wait for each other -------------------------------------------------------------------- */

typedef struct {
  uint64_t seen; /* what was seen the last time: 0 at first */
} pf_knot_t;

/* Called now and then by a thread that waits for a page which a pager has to bring. True: it waits for itself, and is the one to give up; a sentence is recorded. */
bool pf_deadlocked(pf_region_t *region, uint64_t page, const pf_wait_t *wait, pf_knot_t *knot);

#endif
