/*
 * The engine: regions, pages, budgets, pagers. What is declared here is shared by the files of the in-thread fault path and called by
 * binding.c; none of it knows Node, and nothing but os.h and sync.h reaches the operating system (reads of stores aside). Its headers lie on
 * each other: state, source, region, object, page; on the last one room, pager and loader. What is left here is the process's: handlers, end, forks, guard.
 *
 * Page states, one byte a page, changed by compare-and-swap:
 *
 *              touch             store answered          page is open           evict             copied, closed
 *    ABSENT ────────────▶ LOADING ─────────────▶ INSTALLING ────────▶ PRESENT ────────▶ EVICTING ───────────▶ STAGED
 *      ▲  ▲  pf_page_ensure │ ▲ ▲   pf_pages_install  │   pages_finish   │  pf_budget_evict │  ▲                  │ │
 *      │  │                 │ │ └─────────────────────┘                  │ pf_region_release│  │ pf_budget_evict  │ │
 *      │  │                 │ │  the kernel has no memory                │                  │  └──────────────────┘ │
 *      │  │    page_fail    ▼ │ pf_page_ensure with heal                 │                  │    (to be dropped)    │
 *      │  │               FAILED                                         ▼                  ▼                       │
 *      │  └──────────────── (invalidate) ──────────────────────────── dropped ◀────── pages_finish(ABSENT)          │
 *      └─ ahead page given up: pages_unclaim                    LOADING ◀── touched: stolen back (steal) ───────────┘
 *
 * Written pages add three arrows and no state. A page that is open is owned for a moment (PRESENT → INSTALLING → PRESENT) by a flush that protects it and by the first
 * write to it where that is a fault (flush.c, write.c); closing keeps the bytes of a dirty page (close.c), which leaves memory only after the store has it:
 *
 *      PRESENT ──▶ EVICTING ──▶ closed ──▶ clean ─────────────────────────▶ ABSENT
 *          ▲        pf_pages_close │            ▲ pf_pages_retire
 *          │                       ▼            │ the store has it
 *          └──── steal ──── STAGED, dirty ──▶ EVICTING ──▶ the store refuses: STAGED again
 *
 * INSTALLING was not in the first drawing. It is LOADING past the point of no return: invalidating a LOADING page marks it STALE and it
 * is read again; an INSTALLING page may already be visible, so invalidating waits for it to be PRESENT and drops it.
 *
 * Invariants
 *   (1) PRESENT implies that the page is open in the kernel's tables, with the bytes that the store gave.
 *   (2) The thread (or request) that moved a page to LOADING, INSTALLING or EVICTING owns it: only the owner moves it on.
 *   (3) A page is charged to its budget from before it is read until after it is dropped; STAGED pages are charged.
 *   (4) Nobody waits for a page while holding a lock.
 *   (5) A page that is dropped without being written was not dirty: nothing was written to it since the store gave it, or last had it.
 *   (6) Nobody waits for anything while owning a page that is open (INSTALLING, EVICTING), but for the store that was asked about just that page.
 *   (7) A region's memory is unmapped only when `users` is 0 and it can no longer be found.
 *
 * Locks, in order: patches of a region (patch.c) → registry (registry.c) → directory of budgets → budget → pins of a region → failures → stalls. The fault path takes the last four, each for a bounded
 * number of steps, with signals masked.
 */
#ifndef PF_ENGINE_H
#define PF_ENGINE_H

#include "failure.h"
#include "loader.h"
#include "object.h"
#include "os.h"
#include "page.h"
#include "pager.h"
#include "region.h"
#include "room.h"
#include "source.h"
#include "state.h"
#include "sync.h"

/* --- signal.c -------------------------------------------------------------------------------------------------------- */

/* Installs the handlers once; again: looks whether they are still there and puts them back. 0 or -errno. Not in a handler. */
int pf_signal_start(void);
int pf_signal_check(void);
uint64_t pf_signal_reinstalls(void);
uint64_t pf_signal_forwarded(void);
int pf_attempt_begin(void); /* 0 or -errno */
/* True when something failed since the matching begin: which page, and why. */
bool pf_attempt_end(pf_failure_t *out);

/* --- exit.c ----------------------------------------------------------------------------------------------------------------- */

/* The process has begun to exit with this code; again: the code is another one. */
void pf_exiting(int code);
/* What is said of each region, on the guard's thread, before the process is ended although threads wait. */
void pf_exit_tell(void (*tell)(pf_region_t *region));
/* For waiters: pf_exit_check is to be called now and then. */
bool pf_exit_begun(void);
/* By the guard: ends the process when it is time. Returns when to look again. */
uint64_t pf_exit_look(void);
/* By waiters, without a lock: ends the thread that the exiting main thread joins, or, late, should there be no guard, the process. */
void pf_exit_check(void);
/* True of a thread that is joined by the exiting main thread, for whoever serves its fault: it is to be given up, so that the thread hears of it. */
bool pf_exit_joins(int tid);
/* A page cannot be had. Returns false where that is to be told as ever; a thread that the exiting main thread will join waits here for the end instead. */
bool pf_exit_wait(void);

/* --- forked.c --------------------------------------------------------------------------------------------------------------- */

/* Once, before anything that a child must not go on with. 0 or -errno. */
int pf_fork_start(void);
/* True in a process that was forked from the one that called pf_fork_start. */
bool pf_forked(void);
/* In a forked child: true when the address was a segment's; then that is reported. In a handler. */
bool pf_forked_touch(uintptr_t addr);

/* --- service.c ----------------------------------------------------------------------------------------------------------- */

/* Opens a served userfaultfd, and sees to it that somebody listens. 0 or -errno, of which -EAGAIN: no thread can be had. */
int pf_service_start(pf_own_t which);

/* --- guard.c --------------------------------------------------------------------------------------------------------------- */

/* Sees to it that the handlers stay installed, from the first region to the last. After the region is counted. */
void pf_guard_start(void);
/* Somebody wants the handlers looked after at least this often; and does so no longer. */
void pf_guard_interval(uint64_t ns);
void pf_guard_interval_ended(uint64_t ns);
/* How often they are. */
uint64_t pf_guard_interval_now(void);
/* A thread has begun to wait for longer than most: the guard looks now, and then when the wait is late. In a handler too. */
void pf_guard_kick(void);

#endif
