/* Reports on stderr: see report.h. No stdio and no allocation; each report is one write, so that threads do not interleave. */
#include "library.h"
#include "report.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define PATIENCE_NS 1000000000ULL
#define NEAR_MOST (1ULL << 30) /* farther from every segment a crash has nothing to do with one */

typedef struct {
  char text[6144];
  size_t len;
} report_t;

/* One report at a time, and none of it on the stack, which may be a small one for signals. */
static pf_lock_t lock;
static report_t report;
static pf_failure_t failure;
static pf_near_t near;

static void say(const char *text) {
  size_t room = sizeof report.text - report.len;
  size_t len = strnlen(text, room);
  memcpy(report.text + report.len, text, len);
  report.len += len;
}

static void say_number(uint64_t number, unsigned base) {
  char digits[21];
  size_t at = sizeof digits;
  digits[--at] = '\0';
  do {
    digits[--at] = "0123456789abcdef"[number % base];
    number /= base;
  } while (number != 0);
  say(base == 16 ? "0x" : "");
  say(digits + at);
}

static void say_segment(const pf_region_t *region, uint64_t page) {
  say("  segment: ");
  say(region->name[0] != '\0' ? region->name : "(unnamed)");
  say("\n  store:   ");
  say(region->store_name);
  say("\n  offset:  ");
  say_number(page << region->page_shift, 10);
  say(" (page ");
  say_number(page, 10);
  say(" of ");
  say_number(region->page_count, 10);
  say(")\n");
}

static void print(void) {
  for (size_t done = 0; done < report.len;) {
    ssize_t n = write(STDERR_FILENO, report.text + done, report.len - done);
    if (n < 0 && errno != EINTR) {
      return;
    }
    done += n > 0 ? (size_t)n : 0;
  }
}

/* False: another thread has been at its last words for too long, or this one has crashed in them. */
static bool begin(void) {
  if (!pf_lock_before(&lock, pf_now_ns() + PATIENCE_NS)) {
    return false;
  }
  report.len = 0;
  return true;
}

static const char *const hints[] = {
  [PF_NOT_IN_ATTEMPT] = "read(), load(), pin() and attempt() throw a PageError instead; option unreadable: 'zero' reads zeroes",
  [PF_ATTEMPT_REFUSED] = "attempt() cannot let this instruction go on without the page; read(), load() and pin() can throw",
  [PF_ATTEMPT_BREAKPOINT] = "a debugger's breakpoint lies on this instruction, so that attempt() cannot let it go on (a step over it sets one, too)",
};

void pf_report_unreadable(const pf_region_t *region, uint64_t page, pf_why_t why, pf_attempted_t attempted) {
  if (!begin()) {
    return;
  }
  pf_failure_of(region, page, why, &failure);
  say("\npagefault: a page could not be had, and the code that touched it can only be stopped\n");
  say_segment(region, page);
  say("  code:    ");
  say(pf_code_name(why.code));
  say("\n  reason:  ");
  say(failure.message);
  if (why.err != 0) {
    say(" (errno ");
    say_number((uint64_t)why.err, 10);
    say(", ");
    const char *name = strerrordesc_np(why.err); /* a constant string, so it may be used here */
    say(name != NULL ? name : "unknown");
    say(")");
  }
  if (failure.cause[0] != '\0') {
    say("\n  cause:   ");
    say(failure.cause);
  }
  say("\n  hint:    ");
  say(hints[attempted]);
  say("\n");
  print();
  pf_unlock(&lock);
}

void pf_report_write(const pf_region_t *region, uintptr_t addr) {
  if (!begin()) {
    return;
  }
  say("\npagefault: a write to a read-only segment (option writable was not set)\n");
  say_segment(region, (addr - (uintptr_t)region->base) >> region->page_shift);
  say("  address: ");
  say_number(addr, 16);
  say("\n");
  print();
  pf_unlock(&lock);
}

static void say_where(const pf_crash_t *crash) {
  say("  where:   ");
  if (near.distance == 0) {
    say("inside, at offset ");
    say_number(crash->addr - near.start, 10);
  } else {
    say_number(near.distance - (crash->addr >= near.end), 10);
    say(crash->addr < near.start ? " bytes before its start" : " bytes behind its end");
  }
  if (near.freed_at != 0) {
    say(", which was closed ");
    say_number((pf_now_ns() - near.freed_at) / 1000000, 10);
    say(" ms ago");
  }
}

/* What is there is no reason to crash: a page that is missing would have been loaded. */
static const char *hint_of(const pf_crash_t *crash) {
  if (near.freed_at != 0) {
    return "native code went on with a view: a call with a callback must end before close(), and a pointer that was kept is no use after close()";
  }
  if (near.distance != 0) {
    return crash->addr >= near.end ? "behind each segment lies a page that is never accessible" : "an index below zero, or a pointer into what was there before";
  }
  return strcmp(crash->access, "a jump") == 0 ? "memory of a segment is never executable"
                                              : "its pages are there or can be loaded: somebody has changed the mapping or its protection";
}

/* For addr2line and people. */
static void say_library(uintptr_t instruction) {
  pf_library_t library;
  pf_library_found_t found = pf_library_at(instruction, &library);
  if (found == PF_LIBRARY_NONE) {
    say(" (no library's: JavaScript's or WebAssembly's, or none at all)");
  } else if (found == PF_LIBRARY_FOUND) {
    const char *name = strrchr(library.path, '/');
    say(" (");
    say(library.path[0] == '\0' ? "the program" : name == NULL ? library.path : name + 1);
    say("+");
    say_number(instruction - library.bias, 16);
    say(")");
  }
}

void pf_report_crash(const pf_crash_t *crash) {
  static uintptr_t told; /* the instruction that has been reported: it faults again */
  if (!begin()) {
    return;
  }
  bool again = told == crash->instruction;
  told = crash->instruction;
  if (!again && pf_near(crash->addr, NEAR_MOST, &near)) {
    say("\npagefault: this ");
    say(crash->number == SIGBUS ? "SIGBUS" : "SIGSEGV");
    say(" is not of a missing page; the segment that is nearest to it\n  segment: ");
    say(near.name[0] != '\0' ? near.name : "(unnamed)");
    say("\n  store:   ");
    say(near.store_name);
    say("\n  memory:  ");
    say_number(near.start, 16);
    say(" to ");
    say_number(near.end, 16);
    say("\n  address: ");
    say_number(crash->addr, 16);
    say(", ");
    say(crash->access);
    say(" by the instruction at ");
    say_number(crash->instruction, 16);
    say_library(crash->instruction);
    say("\n");
    say_where(crash);
    say("\n  hint:    ");
    say(hint_of(crash));
    say("\n");
    print();
  }
  pf_unlock(&lock);
}

void pf_report_forked(const char *name, uintptr_t addr, uint64_t offset) {
  report.len = 0;
  say("\npagefault: a forked child touched a segment of its parent; the child has neither its pages nor anybody who could bring them\n  segment: ");
  say(name[0] != '\0' ? name : "(unnamed)");
  say("\n  offset:  ");
  say_number(offset, 10);
  say("\n  address: ");
  say_number(addr, 16);
  say("\n  hint:    read in the parent before fork(2), or start a program with exec(2), as child_process does\n");
  print();
}

void pf_report_nested(uintptr_t addr) {
  if (!begin()) {
    return;
  }
  say("\npagefault: a fault inside pagefault's own handler, at address ");
  say_number(addr, 16);
  say("; this is a bug, or memory that a store reads from is gone\n");
  print();
  pf_unlock(&lock);
}
