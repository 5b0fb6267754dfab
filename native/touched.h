/* The order in which the pages of a region were first needed, and loading pages ahead in such an order. See touched.c. */
#ifndef PF_TOUCHED_H
#define PF_TOUCHED_H

#include "engine.h"

/* From here on the first `most` pages that threads need are noted. Once for a region, not in a handler. -EEXIST, -ENOMEM. */
int pf_touched_start(pf_region_t *region, uint32_t most);
/* A thread needs the page, or it was read ahead for one. In a handler too. */
void pf_touched_note(pf_region_t *region, uint64_t page, uint32_t count);
/* What was noted, in order, and the µs since the start; how many. *missed: pages for which there was no room. 0 where nothing is noted. */
uint32_t pf_touched_read(const pf_region_t *region, uint32_t *pages, double *at_us, uint32_t most, uint64_t *missed);
/* How many pf_touched_read would give now, at most. */
uint32_t pf_touched_count(const pf_region_t *region);
/* What it takes of a budget; taken back with that. */
int64_t pf_touched_overhead(pf_region_t *region);
void pf_touched_free(pf_region_t *region);

/* touched.c: job->bytes are pairs of u32, a page and a count. What of them is absent is loaded as if read ahead: nobody waits for it, nothing is evicted for it,
 * and a page that cannot be had is left for its own touch. Ends where the budget has no room left. pages_done: those that it came to. */
void pf_replay_run(pf_job_t *job);
/* load.c: loads `page` and what lies behind it as far as it is absent, at most `want` pages. How many it dealt with; 0: the pager has no room now. */
uint32_t pf_pages_bring_ahead(pf_region_t *region, uint64_t page, uint32_t want, const pf_wait_t *wait);

#endif
