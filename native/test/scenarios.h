/*
 * Tests whose scenarios are processes of their own, this program run again, because handlers are process-wide and some must die. A scenario's exit code is 0 when all
 * was as it should be.
 */
#ifndef PF_TEST_SCENARIOS_H
#define PF_TEST_SCENARIOS_H

#include "support.h"

typedef struct {
  const char *name;
  int (*body)(pf_backend_t);
} scenario_t;

/* What most scenarios return. */
static inline int result(void) { return atomic_load(&unmet) == 0 ? 0 : 1; }

/* In a child: runs the scenario that the arguments of main() name. */
static inline int run_scenario(const scenario_t *scenarios, size_t count, char *const *arguments) {
  const char *name = arguments[2];
  for (size_t i = 0; i < count; i++) {
    if (strcmp(scenarios[i].name, name) == 0) {
      snprintf(current_test, sizeof current_test, "%s", name);
      dup2(STDERR_FILENO, STDOUT_FILENO); /* unmet expectations go where the parent reads */
      int code = scenarios[i].body(backend_named(arguments[3]));
      fflush(stdout);
      fflush(stderr);
      _exit(code);
    }
  }
  return 127;
}

static inline void expect_well(const char *name, pf_backend_t backend) {
  ended_t ended;
  run_child(name, backend, &ended);
  EXPECT_EXIT(&ended, 0);
  if (getenv("PF_TEST_TIMES") != NULL && ended.text[0] != '\0') {
    printf("%s", ended.text);
  }
}

/* A test that is a scenario. */
#define WELL(function, name) \
  static void function(pf_backend_t backend) { expect_well(name, backend); }

#endif
