import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Lane } from '#dist/pager/lane.js';

test('no more jobs are in flight than the limit, and demand goes before read-ahead', () => {
  const lane = new Lane<string>(2);
  assert.ok(lane.enter());
  assert.ok(lane.enter());
  assert.equal(lane.enter(), false);
  lane.wait('ahead 1', true);
  lane.wait('demand 1', false);
  lane.wait('ahead 2', true);
  lane.wait('demand 2', false);
  assert.equal(lane.waiting, 4);
  const order = [lane.leave(), lane.leave(), lane.leave(), lane.leave()];
  assert.deepEqual(order, ['demand 1', 'demand 2', 'ahead 1', 'ahead 2']);
  assert.equal(lane.inFlight, 2);
  assert.equal(lane.leave(), undefined);
  assert.equal(lane.leave(), undefined);
  assert.equal(lane.inFlight, 0);
  assert.ok(lane.enter());
});

test('a drained lane has no queue', () => {
  const lane = new Lane<number>(1);
  lane.enter();
  lane.wait(1, true);
  lane.wait(2, false);
  assert.deepEqual(lane.drain(), [2, 1]);
  assert.equal(lane.leave(), undefined);
});
