/* Room for pages: budgets, and the buffers that pages are read into. */
#ifndef PF_ROOM_H
#define PF_ROOM_H

#include "page.h"

/* --- budgets (budget.c, evict.c, retire.c) --------------------------------------------------------------------------- */

typedef struct {
  uint64_t used, limit, resident, staged, pinned;
} pf_budget_numbers_t;

/* Held once, for the caller. */
int pf_budget_create(uint64_t limit, pf_budget_t **out);
/* Drops a holder; with the last the budget is freed. */
void pf_budget_drop(pf_budget_t *budget);
/* -ENOSPC: more than PF_BUDGET_PAGES_MAX pages. -ENOMEM. */
int pf_budget_join(pf_budget_t *budget, pf_region_t *region);
/* Nobody evicts its pages any more: whoever enters it from here on found it elsewhere. */
void pf_budget_detach(pf_region_t *region);
/* Gives back what it still has charged, and its hold on the budget. */
void pf_budget_leave(pf_region_t *region);
/* Makes room for count pages of the region. The first is waited for until the deadline, the others are taken if they can be had.
 * Returns how many were charged, 0 with the reason. */
uint32_t pf_budget_charge(pf_region_t *region, uint32_t count, pf_wait_t *wait, pf_why_t *why);
/* Whether so many pages fit now without anything being evicted. */
bool pf_budget_has_room(const pf_region_t *region, uint32_t count);
void pf_budget_uncharge(pf_region_t *region, uint64_t pages);
/* A thread begins or ends loading a page of the region. */
void pf_budget_crowd(pf_region_t *region, int change);
/* Memory of our own that counts besides pages (or, negative, no longer). */
void pf_budget_overhead(pf_budget_t *budget, int64_t bytes);
/* Our own memory takes more than this part of it. */
bool pf_budget_is_strained(const pf_budget_t *budget, unsigned share);
/* Enters pages that have just become PRESENT and are not QUEUED into the FIFO. */
void pf_budget_enqueue(pf_region_t *region, const uint64_t *pages, uint32_t count);
/* Pages of the region were staged (or, negative, are no longer). */
void pf_budget_staged(pf_region_t *region, int64_t bytes);
/* Pages that are EVICTING and closed (pf_pages_close): the dirty ones are written to the store, then they go. Those that cannot be written are STAGED. Returns the
 * bytes freed; of pages that a pager writes, later. The caller has left none of them. */
uint64_t pf_pages_retire(pf_region_t *region, uint64_t *pages, uint32_t count);
/* Pages that are EVICTING and kept nowhere: ABSENT. Returns the bytes freed. */
uint64_t pf_pages_leave(pf_region_t *region, const uint64_t *pages, uint32_t count);
/* The answer of a pager that was asked to write pages which are EVICTING. */
void pf_pages_written_back(pf_region_t *region, uint64_t first, uint32_t count, pf_why_t why);
/* Pages that are EVICTING and closed → STAGED, in the budget's queue. */
void pf_pages_keep_staged(pf_region_t *region, const uint64_t *pages, uint32_t count);
/* Counts pinned bytes; false when the budget could then hold nothing else. */
bool pf_budget_pin(pf_budget_t *budget, int64_t bytes);
void pf_budget_numbers(const pf_budget_t *budget, pf_budget_numbers_t *out);
unsigned pf_budget_count(void); /* for leak tests */
uint64_t pf_budget_id(const pf_budget_t *budget);
pf_budget_t *pf_budget_by_id(uint64_t id); /* held */

/* --- scratch.c: buffers that pages are read into ------------------------------------------------------------------- */

typedef struct {
  uint8_t *bytes;
  uint32_t slot;
} pf_scratch_t;

int pf_scratch_take(size_t len, pf_scratch_t *out); /* -ENOMEM */
void pf_scratch_give(pf_scratch_t *scratch);
void pf_scratch_trim(void); /* unmaps what is idle */
unsigned pf_scratch_count(void);
uint64_t pf_scratch_bytes(void);

/* chute.c: unmaps the chutes that are idle. */
void pf_chutes_trim(void);

#endif
