/* Deaths, watched by a tracer: which signals a child's first thread is about to get, and with which registers. */
#ifndef PF_TEST_DEATHS_H
#define PF_TEST_DEATHS_H

#include "support.h"

#include <sys/ptrace.h>
#include <sys/user.h>

typedef struct {
  int number, code;
  uintptr_t addr, instruction;
} stop_t;

typedef struct {
  bool traced;
  stop_t stops[8];
  int count;
  ended_t ended;
} death_t;

static inline void note_stop(pid_t child, int number, death_t *out) {
  if (out->count == 8) {
    return;
  }
  siginfo_t info;
  stop_t *stop = &out->stops[out->count++];
  ptrace(PTRACE_GETSIGINFO, child, NULL, &info);
  *stop = (stop_t){.number = number, .code = info.si_code, .addr = (uintptr_t)info.si_addr};
#if defined(__x86_64__)
  struct user_regs_struct registers;
  ptrace(PTRACE_GETREGS, child, NULL, &registers);
  stop->instruction = registers.rip;
#endif
}

/* Runs a scenario and writes down every SIGSEGV and SIGBUS before it is delivered. */
static inline void watch_death(const char *name, pf_backend_t backend, death_t *out) {
  int ends[2];
  memset(out, 0, sizeof *out);
  must(pipe2(ends, O_CLOEXEC) == 0, "a pipe");
  pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) {
      _exit(125);
    }
    become_child(name, backend);
  }
  close(ends[1]);
  for (int status; waitpid(child, &status, 0) == child;) {
    out->ended.status = status;
    if (!WIFSTOPPED(status)) {
      break;
    }
    out->traced = true;
    int number = WSTOPSIG(status);
    if (number == SIGSEGV || number == SIGBUS) {
      note_stop(child, number, out);
    }
    ptrace(PTRACE_CONT, child, NULL, (void *)(intptr_t)(number == SIGTRAP ? 0 : number));
  }
  size_t len = 0;
  for (ssize_t n; (n = read(ends[0], out->ended.text + len, sizeof out->ended.text - 1 - len)) > 0;) {
    len += (size_t)n;
  }
  close(ends[0]);
}

static inline uintptr_t told(const death_t *death, const char *what) {
  const char *at = strstr(death->ended.text, what);
  return at == NULL ? 1 : (uintptr_t)strtoull(at + strlen(what) + 1, NULL, 16);
}

static inline void expect_original(const char *name, pf_backend_t backend, int number) {
  death_t death;
  watch_death(name, backend, &death);
  if (!death.traced) {
    return; /* ptrace is not allowed here */
  }
  EXPECT_SIGNAL(&death.ended, number);
  EXPECT_EQ(death.count, 2); /* once to our handler, once for good */
  for (int i = 0; i < death.count; i++) {
    EXPECT_EQ(death.stops[i].number, number);
    EXPECT(death.stops[i].code > 0);
    EXPECT(death.stops[i].addr == told(&death, "addr"));
#if defined(__x86_64__)
    EXPECT(death.stops[i].instruction == told(&death, "instruction"));
#endif
  }
}

#endif
