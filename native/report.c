/* Reports on stderr: see report.h. No stdio and no allocation; each report is one write, so that threads do not interleave. */
#include "report.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

typedef struct {
  char text[6144];
  size_t len;
} report_t;

static void say(report_t *report, const char *text) {
  size_t room = sizeof report->text - report->len;
  size_t len = strnlen(text, room);
  memcpy(report->text + report->len, text, len);
  report->len += len;
}

static void say_number(report_t *report, uint64_t number, unsigned base) {
  char digits[21];
  size_t at = sizeof digits;
  digits[--at] = '\0';
  do {
    digits[--at] = "0123456789abcdef"[number % base];
    number /= base;
  } while (number != 0);
  say(report, base == 16 ? "0x" : "");
  say(report, digits + at);
}

static void say_segment(report_t *report, const pf_region_t *region, uint64_t page) {
  say(report, "  segment: ");
  say(report, region->name[0] != '\0' ? region->name : "(unnamed)");
  say(report, "\n  store:   ");
  say(report, region->store_name);
  say(report, "\n  offset:  ");
  say_number(report, page << region->page_shift, 10);
  say(report, " (page ");
  say_number(report, page, 10);
  say(report, " of ");
  say_number(report, region->page_count, 10);
  say(report, ")\n");
}

static void print(const report_t *report) {
  for (size_t done = 0; done < report->len;) {
    ssize_t n = write(STDERR_FILENO, report->text + done, report->len - done);
    if (n < 0 && errno != EINTR) {
      return;
    }
    done += n > 0 ? (size_t)n : 0;
  }
}

void pf_report_unreadable(const pf_region_t *region, uint64_t page, pf_why_t why, bool in_attempt) {
  report_t report = {.len = 0};
  pf_failure_t failure;
  if (!pf_failure_find(atomic_load(&region->id), page << region->page_shift, &failure) || failure.why.code != why.code) {
    pf_failure_describe(region, page, why, &failure);
  }
  say(&report, "\npagefault: a page could not be had, and the code that touched it can only be stopped\n");
  say_segment(&report, region, page);
  say(&report, "  code:    ");
  say(&report, pf_code_name(why.code));
  say(&report, "\n  reason:  ");
  say(&report, failure.message);
  if (why.err != 0) {
    say(&report, " (errno ");
    say_number(&report, (uint64_t)why.err, 10);
    say(&report, ", ");
    const char *name = strerrordesc_np(why.err); /* a constant string, so it may be used here */
    say(&report, name != NULL ? name : "unknown");
    say(&report, ")");
  }
  if (failure.cause[0] != '\0') {
    say(&report, "\n  cause:   ");
    say(&report, failure.cause);
  }
  say(&report, in_attempt ? "\n  hint:    attempt() cannot let this instruction go on without the page; read(), load() and pin() can throw\n"
                          : "\n  hint:    read(), load(), pin() and attempt() throw a PageError instead; option unreadable: 'zero' reads zeroes\n");
  print(&report);
}

void pf_report_write(const pf_region_t *region, uintptr_t addr) {
  report_t report = {.len = 0};
  say(&report, "\npagefault: a write to a read-only segment (option writable was not set)\n");
  say_segment(&report, region, (addr - (uintptr_t)region->base) >> region->page_shift);
  say(&report, "  address: ");
  say_number(&report, addr, 16);
  say(&report, "\n");
  print(&report);
}

void pf_report_nested(uintptr_t addr) {
  report_t report = {.len = 0};
  say(&report, "\npagefault: a fault inside pagefault's own handler, at address ");
  say_number(&report, addr, 16);
  say(&report, "; this is a bug, or memory that a store reads from is gone\n");
  print(&report);
}
