/* What is told of pages: those that failed (failure.c), those that are late (watchdog.c). */
#ifndef PF_FAILURE_H
#define PF_FAILURE_H

#include "region.h"

/* --- failure.c ------------------------------------------------------------------------------------------------------ */

#define PF_MESSAGE_MAX 1024
#define PF_CAUSE_MAX 3072

typedef struct {
  uint64_t serial, region; /* as in pf_record_t */
  uint64_t offset;
  pf_why_t why;
  uint32_t access; /* pf_access_t: what was asked of the store */
  char message[PF_MESSAGE_MAX];
  char cause[PF_CAUSE_MAX]; /* JSON of a JavaScript error, or "" */
} pf_failure_t;

void pf_failure_record(pf_region_t *region, uint64_t page, pf_access_t access, pf_why_t why, const char *message, const char *cause);
/* The same, unless one of the region for this reason came after the record with the serial `after`: whoever hears of a failure cannot tell whether it was told. */
void pf_failure_record_once(pf_region_t *region, uint64_t page, pf_access_t access, pf_why_t why, uint64_t after);
/* The serial of the newest record. */
uint64_t pf_failure_serial(void);
/* Why the store refused a first write to the page since then; false: it did not. */
bool pf_failure_refused(uint64_t region, uint64_t offset, uint64_t serial, pf_why_t *out);
/* Why the page could not be read. Only the reason, for the fault path: less stack. */
bool pf_failure_why(uint64_t region, uint64_t offset, pf_why_t *out);
/* The newest record of the page, whatever was asked. */
bool pf_failure_find(uint64_t region, uint64_t offset, pf_failure_t *out);
/* The oldest record of the region after `serial`. */
bool pf_failure_next(uint64_t region, uint64_t serial, pf_failure_t *out);
/* The newest record of the page with this reason, or a sentence where there is none. */
void pf_failure_of(const pf_region_t *region, uint64_t page, pf_why_t why, pf_failure_t *out);

/* --- watchdog.c ------------------------------------------------------------------------------------------------------ */

#define PF_DOING_MAX 720

/* A page that was late, before its deadline. */
typedef struct {
  uint64_t serial, region; /* as in pf_record_t */
  uint64_t page;
  uint64_t since_ns, waited_ns;
  int tid;
  char doing[PF_DOING_MAX]; /* what the store was at: a sentence without its end */
} pf_stall_t;

/* The guard's thread: tells of what is late now. Returns when to look again (UINT64_MAX: nothing is waited for). */
uint64_t pf_watchdog_look(void);
/* Whether stalls are told on stderr; from the environment. Not in a handler, once. */
void pf_watchdog_start(void);
/* A thread that runs JavaScript, so none of libuv's pool; and its end. */
void pf_watchdog_javascript(bool begins);
/* True of the main thread, and of those that have told it. */
bool pf_watchdog_runs_javascript(int tid);
uint64_t pf_stall_serial(void);
/* The oldest of the region after `serial`. */
bool pf_stall_next(uint64_t region, uint64_t serial, pf_stall_t *out);
/* What was told of a page that is waited for since `not_before` or later: appended to `text`. In a handler too. */
void pf_stall_append(uint64_t region, uint64_t page, uint64_t not_before, char *text, size_t size);

#endif
