/*
 * The floors of the benchmark: what one good C programmer gets who writes a pager for one purpose, with one region, one file and
 * no way to say no. Nothing here is shared with the engine in native/, so that a mistake there cannot slow both sides down.
 *
 * Each floor keeps its one region in file-scope variables: opening a second one before the first is closed is refused with
 * -EBUSY. Open and close run on one thread while no other touches the region. Functions return 0 or -errno; on failure nothing
 * stays open. Close returns 1 when somebody else's signal handler was found on top of ours: then what was measured is not us alone. A fault that cannot be served ends the process: a benchmark that reads zeroes measures nothing.
 */
#ifndef FLOOR_H
#define FLOOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdnoreturn.h>

/* --- common.c --- */

size_t floor_page_size(void);
/* Writes the sentence to stderr and ends the process; for signal handlers. */
noreturn void floor_die(const char *sentence);
uint64_t floor_now_ns(void);
/* CPU time of the calling thread. */
uint64_t floor_thread_cpu_ns(void);
/* Opens a user-mode-only userfaultfd with the features asked and registers [base, base + len) in the modes asked. */
int floor_uffd_open(void *base, size_t len, uint64_t features, uint64_t modes, int *uffd);
/* Touches one byte of each page listed, in order, and sums the bytes: the loop that JavaScript runs, in C. */
uint32_t floor_touch(const uint8_t *base, const uint32_t *order, size_t count, size_t page_size);

/* Pins the calling thread, or every thread of the process, to one CPU. Threads made later inherit it. */
int floor_pin_thread(int cpu);
int floor_pin_process(int cpu);
/* Gives every thread the CPUs that the process had when the addon was loaded. */
int floor_unpin_process(void);
void floor_affinity_remember(void);
/* Writes the CPUs that the process had at first into cpus; returns how many there are. */
int floor_cpus(int *cpus, int max);

/* Kernel mmap of len bytes of a file, read-only: what a user would do without us. */
int floor_mmap_open(int fd, size_t len, void **base);

/* --- sigbus.c: userfaultfd with SIGBUS, handled by the faulting thread --- */

struct floor_sigbus_options {
  size_t len;
  int fd;            /* the file that holds the pages, or -1 if none will be touched */
  size_t batch;      /* pages read and opened by each fault; len is a multiple of it */
  size_t capacity;   /* pages that may be present at once, oldest dropped first; 0 for no limit */
  size_t threads;    /* 1 to 8; each of as many parts of the region is touched by one thread only */
  bool writable;     /* the file too; for one thread only. Close writes what is left */
};
int floor_sigbus_open(const struct floor_sigbus_options *options, void **base);
int floor_sigbus_close(void);
/*
 * Opens a region and touches the pages in order from `threads` C threads pinned to two CPUs in turns: each has a part of the list, which must lie
 * in the same part of the region.
 */
int floor_sigbus_scale(size_t len, int fd, const uint32_t *order, size_t count, size_t threads, uint64_t *ns, uint32_t *sum);

/* --- mprotect.c: SIGSEGV, fill through another mapping, mprotect --- */

int floor_mprotect_open(size_t len, int fd, void **base);
int floor_mprotect_close(void);

/* --- thread.c: userfaultfd read by a thread that fills each page with one byte --- */

/* Each page is filled with the low byte of its number. The thread has the affinity of the caller. */
int floor_thread_open(size_t len, void **base);
int floor_thread_close(void);

/* --- calls.c: one ioctl a page, for all pages of a registered region that nobody touches --- */

int floor_calls_open(size_t len);
int floor_calls_close(void);
/* Every page is missing again. */
int floor_calls_drop(void);
/* Each page is filled from one source page. All of them must be missing. */
int floor_calls_copy(void);
int floor_calls_wake(void);

/* --- writes.c: memory whose writes the kernel notes, and a thread that flushes it --- */

/* Every page is present, with the bytes of the file, and clean. */
int floor_writes_open(size_t len, int fd, void **base);
int floor_writes_close(void);
/* A thread flushes the region into the file, again and again; the first flush is over when this returns. */
int floor_writes_flush_begin(void);
/* Flushes begun since. */
int64_t floor_writes_flushes(void);
/* Ends the thread and flushes what is left. The pages that were written in all, or -errno. */
int64_t floor_writes_flush_end(void);
/* Bytes of the pages written to in any memory that notes writes so, or -errno: one PAGEMAP_SCAN, or one for each 1024 runs of them. One
 * thread at a time. */
int64_t floor_written(uintptr_t base, size_t len);

/* --- file.c: bytes that go back to a file, without paging --- */

/* Adds 1 to each 8-byte word. */
void floor_increment(uint64_t *words, size_t len);
/* pwrite of `unit` bytes in every `stride` bytes of a buffer, at the same offset in the file, and fdatasync. */
int floor_flush(int fd, const uint8_t *bytes, size_t len, size_t unit, size_t stride);
/* A file that a scan increments word by word, through a buffer of `capacity` bytes, of which `len` is a multiple. The last of it is
 * written by close, which makes all of it durable. */
int floor_rewrite_open(int fd, size_t len, size_t capacity);
int floor_rewrite_scan(void);
int floor_rewrite_close(void);

/* --- continue.c: pages of a memfd that are opened without a copy --- */

/* Page n of the memfd is filled with the low byte of n; none is open. */
int floor_continue_open(size_t len, void **base);
int floor_continue_close(void);
/* Opens all pages, `batch` with each call. None may be open. */
int floor_continue_all(size_t batch);
/* None is open again. */
int floor_continue_shut(void);

/* --- watch.c ------------------------------------------------------------------------------------------------------------ */

double floor_watch_cost(void);

#endif
