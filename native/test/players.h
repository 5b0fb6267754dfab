/* Several threads that do to one stage what a single one does, each with a number and a seed of its own. */
#ifndef PF_TEST_PLAYERS_H
#define PF_TEST_PLAYERS_H

#include "support.h"

#define PLAYERS_MAX 8

typedef struct {
  pthread_t thread;
  void (*play)(void *stage, unsigned number, uint64_t seed);
  void *stage;
  unsigned number;
  uint64_t seed;
} player_t;

static inline void *play_alone(void *data) {
  player_t *player = data;
  player->play(player->stage, player->number, player->seed);
  return NULL;
}

/* So many threads play on one stage, each with a number and a seed of its own; returns when all have. */
static inline void play_together(unsigned threads, void (*play)(void *stage, unsigned number, uint64_t seed), void *stage, uint64_t *seed) {
  player_t players[PLAYERS_MAX];
  must(threads <= PLAYERS_MAX, "places for players");
  for (unsigned i = 0; i < threads; i++) {
    players[i] = (player_t){.play = play, .stage = stage, .number = i, .seed = random_next(seed)};
    must(pthread_create(&players[i].thread, NULL, play_alone, &players[i]) == 0, "a thread");
  }
  for (unsigned i = 0; i < threads; i++) {
    pthread_join(players[i].thread, NULL);
  }
}

#endif
