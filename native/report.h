/* The last words: what a process says on stderr before it dies of a page that cannot be had. In a handler; write(2) only. */
#ifndef PF_REPORT_H
#define PF_REPORT_H

#include "engine.h"

/* A raw touch of a page that could not be had. `in_attempt`: the instruction could not be let go on. */
void pf_report_unreadable(const pf_region_t *region, uint64_t page, pf_why_t why, bool in_attempt);
/* A raw write to a read-only segment. */
void pf_report_write(const pf_region_t *region, uintptr_t addr);
/* A fault inside our own handler. */
void pf_report_nested(uintptr_t addr);

#endif
