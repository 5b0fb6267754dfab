/* Reports on stderr: see report.h. No stdio and no allocation; each report is one write, so that threads do not interleave. */
#include "report.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

typedef struct {
  char text[6144];
  size_t len;
} report_t;

/* One report at a time, and none of it on the stack, which may be a small one for signals. */
static pf_lock_t lock;
static report_t report;
static pf_failure_t failure;

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

static void begin(void) {
  pf_lock(&lock);
  report.len = 0;
}

void pf_report_unreadable(const pf_region_t *region, uint64_t page, pf_why_t why, bool in_attempt) {
  begin();
  if (!pf_failure_find(atomic_load(&region->id), page << region->page_shift, &failure) || failure.why.code != why.code) {
    pf_failure_describe(region, page, why, &failure);
  }
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
  say(in_attempt ? "\n  hint:    attempt() cannot let this instruction go on without the page; read(), load() and pin() can throw\n"
                          : "\n  hint:    read(), load(), pin() and attempt() throw a PageError instead; option unreadable: 'zero' reads zeroes\n");
  print();
  pf_unlock(&lock);
}

void pf_report_write(const pf_region_t *region, uintptr_t addr) {
  begin();
  say("\npagefault: a write to a read-only segment (option writable was not set)\n");
  say_segment(region, (addr - (uintptr_t)region->base) >> region->page_shift);
  say("  address: ");
  say_number(addr, 16);
  say("\n");
  print();
  pf_unlock(&lock);
}

void pf_report_nested(uintptr_t addr) {
  begin();
  say("\npagefault: a fault inside pagefault's own handler, at address ");
  say_number(addr, 16);
  say("; this is a bug, or memory that a store reads from is gone\n");
  print();
  pf_unlock(&lock);
}
