/*
 * The watchdog: which threads wait for a page for longer than their segment allows before it is told (`stallAfterMs`), and what the page's store is doing
 * meanwhile. Looked at from the guard's thread, which no store and no stopped thread can hold up: it takes no lock that is held for longer than a copy, and writes
 * to stderr only what fits without waiting. A thread that faults notes nothing for it but where it is (thread.h).
 *
 * What is told is kept in a small table, for the event 'stall', for the line on stderr, and for the error of the page when its deadline comes.
 */
#include "records.h"
#include "task.h"
#include "thread.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RECORDS 32
#define SAY_AGAIN_NS 10000000000ULL /* a segment's lines on stderr are at least so far apart */
#define JAVASCRIPT_MAX 256
#define POOL_DEFAULT 4

static pf_lock_t lock; /* of the records */
static pf_stall_t records[RECORDS];
_Static_assert(offsetof(pf_stall_t, serial) == offsetof(pf_record_t, serial) &&
                   offsetof(pf_stall_t, region) == offsetof(pf_record_t, region), "begins as a record does");
static uint64_t last_serial;
static uint64_t told[PF_THREADS_MAX]; /* the guard's: since when each waited when it was last told of */
static _Atomic int javascript[JAVASCRIPT_MAX]; /* threads that run it */
static bool quiet;
static unsigned pool_size = POOL_DEFAULT;

/* --- who is who ---------------------------------------------------------------------------------------------------------- */

void pf_watchdog_start(void) {
  const char *reports = getenv("PAGEFAULT_STALL_REPORTS"), *pool = getenv("UV_THREADPOOL_SIZE");
  quiet = reports != NULL && strcmp(reports, "0") == 0;
  long size = pool != NULL ? strtol(pool, NULL, 10) : 0;
  pool_size = size > 0 && size <= 1024 ? (unsigned)size : POOL_DEFAULT;
}

void pf_watchdog_javascript(bool begins) {
  int me = pf_thread_tid();
  for (size_t i = 0; i < JAVASCRIPT_MAX; i++) {
    int seen = begins ? 0 : me;
    if (atomic_compare_exchange_strong(&javascript[i], &seen, begins ? me : 0)) {
      return;
    }
  }
}

bool pf_watchdog_runs_javascript(int tid) {
  bool found = tid == (int)getpid();
  for (size_t i = 0; !found && i < JAVASCRIPT_MAX; i++) {
    found = atomic_load(&javascript[i]) == tid;
  }
  return found;
}

static bool is_named_pool(int tid) {
  char name[32];
  return pf_task_read(tid, "comm", name, sizeof name) > 0 && strncmp(name, "libuv-worker", 12) == 0; /* libuv 1.50 */
}

/* The thread that waits with this number. */
static bool find_waiting(int tid, pf_serving_t *out) {
  for (size_t i = 0; i < PF_THREADS_MAX; i++) {
    if (pf_thread_waits(i, out) && out->tid == tid) {
      return true;
    }
  }
  return false;
}

/* Threads of libuv's pool that are stopped at pages; `all` of the pool. Before libuv 1.50 they have no name: then those count that are neither the main thread,
 * nor run JavaScript, nor are ours. */
static unsigned pool_stopped(bool *named) {
  unsigned count = 0, with_name = 0;
  pf_serving_t serving;
  for (size_t i = 0; i < PF_THREADS_MAX; i++) {
    if (pf_thread_waits(i, &serving) && serving.doing != PF_DOES_LOOK && !pf_watchdog_runs_javascript(serving.tid) && !pf_loader_is(serving.tid)) {
      count++;
      with_name += is_named_pool(serving.tid);
    }
  }
  *named = with_name > 0;
  return with_name > 0 ? with_name : count;
}

/* --- sentences ------------------------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static void say(char *text, const char *format, ...) {
  size_t have = strnlen(text, PF_DOING_MAX - 1);
  va_list list;
  va_start(list, format);
  vsnprintf(text + have, PF_DOING_MAX - have, format, list);
  va_end(list);
}

static double seconds(uint64_t now, uint64_t since) { return since < now ? (double)(now - since) / 1e9 : 0; }

/* What the kernel says of a thread that ought to answer. True: it waits for something. */
static bool say_thread(char *text, int tid) {
  char stat[256], call[64];
  ssize_t got = pf_task_read(tid, "stat", stat, sizeof stat);
  const char *state = got > 0 ? strrchr(stat, ')') : NULL;
  if (state == NULL) {
    bool ended = pf_task_has_ended(tid);
    say(text, ended ? "; its thread has ended" : "; what its thread does cannot be seen (errno %d in /proc)", (int)-got);
    return !ended;
  }
  bool readable = pf_task_read(tid, "syscall", call, sizeof call) > 0 && call[0] >= '0' && call[0] <= '9';
  long number = readable ? strtol(call, NULL, 10) : -1;
  if (state[2] == 'R') {
    say(text, "; it is running code");
    return false;
  } else if (state[2] == 'D') {
    say(text, "; it is stuck in the kernel (a disk or a file server that does not answer)");
  } else if (state[2] == 'T' || state[2] == 't') {
    say(text, "; it was stopped by a signal or a debugger");
  } else if (number == SYS_futex) {
    say(text, "; it sleeps until another thread wakes it (Atomics.wait, a lock)");
  } else if (number == SYS_epoll_pwait
#ifdef SYS_epoll_wait
             || number == SYS_epoll_wait
#endif
  ) {
    say(text, "; its event loop is idle: what the store awaits does not come");
  } else if (number >= 0) {
    say(text, "; it is in system call %ld", number);
  }
  return true;
}

static void say_main_thread(char *text) {
  pf_serving_t serving;
  if (find_waiting((int)getpid(), &serving)) {
    say(text, " (the main thread is stopped at a page: a store must not wait for it, its messages or process.stdout)");
  }
}

static void say_pool(char *text) {
  bool named;
  unsigned stopped = pool_stopped(&named);
  if (stopped >= pool_size) {
    say(text, named ? "; all %u threads of libuv's pool are stopped at pages: a store that needs the pool (fs, dns, zlib, crypto) cannot answer"
                    : "; %u threads that run no JavaScript are stopped at pages: if they are libuv's pool, a store that needs it (fs, dns, zlib, crypto) cannot answer",
        stopped);
  }
}

/* The Worker of a store is itself stopped at a page. */
static bool say_stopped(char *text, int tid, uint64_t now) {
  pf_serving_t serving;
  if (!find_waiting(tid, &serving)) {
    return false;
  }
  pf_region_t *other = pf_region_by_id(serving.region);
  say(text, "; that Worker is itself stopped, at page %llu of segment \"%s\" for %.1f s", (unsigned long long)serving.page, other != NULL ? other->name : "",
      seconds(now, serving.since_ns));
  if (other != NULL) {
    pf_region_leave(other);
  }
  return true;
}

static void say_pager(char *text, const pf_region_t *region, const pf_serving_t *serving, uint64_t now) {
  static const char *const orders[] = {"a read", "a read", "a read ahead", "an onWrite", "a write", "a sync"};
  const pf_pager_t *pager = region->source.pager;
  pf_pager_seen_t seen;
  pf_pager_look(region, serving->page, &seen);
  if (pf_pager_is_dead(pager)) {
    say(text, "the store's Worker has ended: %s", pf_pager_reason(pager));
    return;
  }
  if (!seen.asked) {
    say(text, serving->doing == PF_DOES_ASK ? "all orders that a Worker may have are out" : "the page is with another thread");
  } else if (seen.taken) {
    say(text, "the store has had the order (%s) for %.1f s", orders[seen.access], seconds(now, seen.since_ns));
  } else {
    say(text, "the store's Worker has not taken the order (%s) for %.1f s, so its event loop is busy", orders[seen.access], seconds(now, seen.since_ns));
  }
  say(text, "; its Worker (thread %d) has %u taken", pf_pager_tid(pager), seen.orders_taken);
  if (seen.oldest_taken_ns != 0) {
    say(text, ", the oldest for %.1f s", seconds(now, seen.oldest_taken_ns));
  }
  say(text, ", and %u not", seen.orders_waiting);
  if (seen.answered_ns == 0) {
    say(text, "; it never answered");
  } else {
    say(text, "; it last answered %.1f s ago", seconds(now, seen.answered_ns));
  }
  if (!say_stopped(text, pf_pager_tid(pager), now)) {
    bool waits = say_thread(text, pf_pager_tid(pager));
    if (waits) {
      say_main_thread(text);
      say_pool(text);
    }
  }
}

static void say_doing(char *text, pf_region_t *region, const pf_serving_t *serving, uint64_t now) {
  text[0] = '\0';
  switch (serving->doing) {
    case PF_DOES_READ:
      say(text, "the read of the store has not returned");
      say_thread(text, serving->by);
      return;
    case PF_DOES_RETRY:
      say(text, "the store's read fails and is repeated");
      return;
    case PF_DOES_ROOM:
      say(text, "there is no room in the budget: what is in it is pinned, on its way in, or waits to be written");
      return;
    case PF_DOES_SHARE:
      say(text, "another process is filling this page of shared memory");
      return;
    default:
      if (region->source.kind == PF_SOURCE_PAGER) {
        say_pager(text, region, serving, now);
      } else {
        say(text, "another thread has the page (its read has not returned, or it is being written out)");
      }
  }
}

/* --- telling ----------------------------------------------------------------------------------------------------------------- */

static void keep(const pf_stall_t *stall) {
  pf_lock(&lock);
  pf_stall_t *record = &records[last_serial % RECORDS];
  *record = *stall;
  record->serial = ++last_serial;
  pf_unlock(&lock);
}

/* One line, unless stderr would make us wait. */
static void print(const pf_region_t *region, const pf_stall_t *stall) {
  char line[PF_DOING_MAX + 512];
  int len = snprintf(line, sizeof line, "pagefault: thread %d has waited %.1f s for page %llu (offset %llu) of segment \"%s\", store %s: %s\n", stall->tid,
                     (double)stall->waited_ns / 1e9, (unsigned long long)stall->page, (unsigned long long)(stall->page << region->page_shift),
                     region->name, region->store_name, stall->doing);
  struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
  size_t size = len < 0 ? 0 : (size_t)len < sizeof line ? (size_t)len : sizeof line - 1;
  if (size > 0 && poll(&out, 1, 0) == 1 && (out.revents & POLLOUT)) {
    line[size - 1] = '\n';
    ssize_t ignored = write(STDERR_FILENO, line, size);
    (void)ignored;
  }
}

static void report(pf_region_t *region, const pf_serving_t *serving, uint64_t now) {
  pf_stall_t stall = {.region = serving->region, .page = serving->page, .since_ns = serving->since_ns, .waited_ns = now - serving->since_ns, .tid = serving->tid};
  say_doing(stall.doing, region, serving, now);
  atomic_fetch_add(&region->counters.stalls, 1);
  keep(&stall);
  bool listens = pf_loader_is(serving->tid); /* load() and pin(): nobody is stopped, and the event is heard */
  if (!quiet && !listens && (region->stall_said_at == 0 || now - region->stall_said_at >= SAY_AGAIN_NS)) {
    region->stall_said_at = now;
    print(region, &stall);
  }
}

uint64_t pf_watchdog_look(void) {
  uint64_t now = pf_now_ns(), due = UINT64_MAX;
  pf_serving_t serving;
  for (size_t i = 0; i < PF_THREADS_MAX; i++) {
    if (!pf_thread_waits(i, &serving) || serving.since_ns == told[i]) {
      continue;
    }
    pf_region_t *region = pf_region_by_id(serving.region);
    if (region == NULL) {
      continue;
    }
    uint64_t late = serving.since_ns + region->stall_after_ns;
    if (region->stall_after_ns != 0 && atomic_load(&region->phase) == PF_PHASE_OPEN) {
      if (now >= late) {
        told[i] = serving.since_ns;
        report(region, &serving, now);
      } else if (late < due) {
        due = late;
      }
    }
    pf_region_leave(region);
  }
  return due;
}

/* --- what was told ----------------------------------------------------------------------------------------------------------- */

uint64_t pf_stall_serial(void) { return pf_record_serial(&lock, &last_serial); }

bool pf_stall_next(uint64_t region, uint64_t serial, pf_stall_t *out) {
  return pf_record_next(&lock, records, RECORDS, sizeof *records, &(pf_record_t){.serial = serial, .region = region}, out);
}

void pf_stall_append(uint64_t region, uint64_t page, uint64_t not_before, char *text, size_t size) {
  const pf_stall_t *newest = NULL;
  pf_lock(&lock);
  for (size_t i = 0; i < RECORDS; i++) {
    const pf_stall_t *record = &records[i];
    if (record->serial != 0 && record->region == region && record->page == page && record->since_ns >= not_before &&
        (newest == NULL || record->serial > newest->serial)) {
      newest = record;
    }
  }
  size_t have = strnlen(text, size - 1);
  static const char between[] = "; when it was late, ";
  if (newest != NULL && have + sizeof between < size) {
    memcpy(text + have, between, sizeof between);
    have += sizeof between - 1;
    size_t len = strnlen(newest->doing, size - 1 - have);
    memcpy(text + have, newest->doing, len);
    text[have + len] = '\0';
  }
  pf_unlock(&lock);
}
