import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Deadlines, isPermanent, pauseBeforeRetry } from '#dist/pager/retry.js';

test('pauses double from 1 ms to 250 ms', () => {
  const pauses = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1000].map((failed) => pauseBeforeRetry(failed, 30_000, 30_000));
  assert.deepEqual(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 250, 250, 250]);
});

test('the last try is made shortly before the deadline, and none after it', () => {
  assert.equal(pauseBeforeRetry(20, 100, 1000), 50);
  assert.equal(pauseBeforeRetry(20, 50, 1000), undefined);
  assert.equal(pauseBeforeRetry(20, -5, 1000), undefined);
  assert.equal(pauseBeforeRetry(20, 15, 100), 5);
});

test('only an error that says so is permanent', () => {
  assert.ok(isPermanent(Object.assign(new Error('gone'), { permanent: true })));
  for (const error of [new Error('x'), undefined, null, 'permanent', { permanent: 1 }])
    assert.equal(isPermanent(error), false);
});

test('each deadline is told once, in time, and none that was taken back', async () => {
  const told: string[] = [];
  let first = 0; // when
  const start = performance.now();
  const done = new Promise<void>((resolve) => {
    const deadlines = new Deadlines<{ name: string; deadline: number }>(({ name }) => {
      if (told.push(name) === 1) first = performance.now();
      else resolve();
    });
    const item = (name: string, ms: number): { name: string; deadline: number } => ({ name, deadline: start + ms });
    const never = item('never', 30);
    deadlines.add(item('late', 60));
    deadlines.add(item('early', 20));
    deadlines.add(never);
    deadlines.delete(never);
  });
  const alive = setInterval(() => {}, 1000); // the timer of the deadlines does not keep the process
  await done;
  clearInterval(alive);
  if (first >= start + 60) told.sort(); // the machine was busy until both were due
  assert.deepEqual(told, ['early', 'late']);
  assert.ok(first - start >= 19);
  assert.ok(performance.now() - start >= 59);
});
