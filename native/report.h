/* The last words: what a process says on stderr before it dies of a page that cannot be had. In a handler; write(2) only. */
#ifndef PF_REPORT_H
#define PF_REPORT_H

#include "engine.h"

typedef enum {
  PF_NOT_IN_ATTEMPT,
  PF_ATTEMPT_REFUSED,   /* the instruction could not be let go on */
  PF_ATTEMPT_BREAKPOINT /* nor looked at: a debugger has put its own in its place */
} pf_attempted_t;
/* A raw touch of a page that could not be had. */
void pf_report_unreadable(const pf_region_t *region, uint64_t page, pf_why_t why, pf_attempted_t attempted);
/* A raw write to a read-only segment. */
void pf_report_write(const pf_region_t *region, uintptr_t addr);
/* A crash that is not of a page, but near a segment or in one: says which. Nothing when none is near. */
typedef struct {
  int number;             /* the signal */
  uintptr_t addr, instruction;
  const char *access;     /* "a read", "a write", "a jump" or "an access" */
} pf_crash_t;
void pf_report_crash(const pf_crash_t *crash);
/* A fault inside our own handler. */
void pf_report_nested(uintptr_t addr);
/* In a forked child: a touch of what was a segment of its parent. Takes no lock, which a thread of the parent may have held. */
void pf_report_forked(const char *name, uintptr_t addr, uint64_t offset);

#endif
