import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Lane, type Place } from '#dist/pager/lane.js';

/** Lets whatever has a place go, one after the other, and says in which order the rest got theirs. */
function order(lane: Lane<Place>, inFlight: Place[]): Place[] {
  const followed: Place[] = [];
  for (let place = inFlight.shift(); place !== undefined; place = inFlight.shift()) {
    const next = lane.leave(place);
    if (next === undefined) continue;
    followed.push(next);
    inFlight.push(next);
  }
  return followed;
}

test('no more jobs are in flight than the limit, and demand goes before read-ahead', () => {
  const lane = new Lane<string>(2);
  assert.ok(lane.enter('demand'));
  assert.ok(lane.enter('ahead'));
  assert.equal(lane.enter('demand'), false);
  lane.wait('ahead 1', 'ahead');
  lane.wait('demand 1', 'demand');
  lane.wait('ahead 2', 'ahead');
  lane.wait('demand 2', 'demand');
  assert.equal(lane.waiting, 4);
  const order = [lane.leave('demand'), lane.leave('ahead'), lane.leave('demand'), lane.leave('demand')];
  assert.deepEqual(order, ['demand 1', 'demand 2', 'ahead 1', 'ahead 2']);
  assert.equal(lane.inFlight, 2);
  assert.equal(lane.leave('ahead'), undefined);
  assert.equal(lane.leave('ahead'), undefined);
  assert.equal(lane.inFlight, 0);
  assert.ok(lane.enter('demand'));
});

test('writes leave half of the places to reads', () => {
  const lane = new Lane<string>(4);
  assert.ok(lane.enter('write'));
  assert.ok(lane.enter('write'));
  assert.equal(lane.enter('write'), false);
  assert.ok(lane.enter('demand'));
  assert.ok(lane.enter('demand'));
  assert.equal(lane.enter('demand'), false);
  lane.wait('a third write', 'write');
  assert.equal(lane.leave('demand'), undefined, 'the writes have their half');
  assert.equal(lane.leave('write'), 'a third write');
});

test('what is read ahead leaves a quarter of the places to demand', () => {
  const lane = new Lane<string>(4);
  for (let i = 0; i < 3; i++) assert.ok(lane.enter('ahead'));
  assert.equal(lane.enter('ahead'), false);
  lane.wait('a fourth read ahead', 'ahead');
  assert.ok(lane.enter('demand'));
  assert.equal(lane.leave('demand'), undefined, 'those that read ahead have their places');
  assert.equal(lane.leave('ahead'), 'a fourth read ahead');
  const narrow = new Lane<string>(1);
  assert.ok(narrow.enter('ahead'));
});

test('where both wait, demand and writes get the places that become free in turn', () => {
  for (const limit of [1, 2]) {
    const lane = new Lane<Place>(limit);
    const inFlight: Place[] = Array.from({ length: limit }, () => 'demand');
    for (const place of inFlight) assert.ok(lane.enter(place));
    for (let i = 0; i < 3; i++) lane.wait('demand', 'demand');
    for (let i = 0; i < 3; i++) lane.wait('write', 'write');
    lane.wait('ahead', 'ahead');
    const followed = order(lane, inFlight);
    assert.deepEqual(followed, ['write', 'demand', 'write', 'demand', 'write', 'demand', 'ahead'], `limit ${limit}`);
    assert.equal(lane.inFlight, 0);
    assert.equal(lane.waiting, 0);
  }
});

test('a place of which nobody made use is there for the next', () => {
  const lane = new Lane<string>(2);
  assert.ok(lane.enter('write'));
  assert.equal(lane.enter('write'), false);
  lane.wait('write', 'write');
  assert.ok(lane.enter('ahead'));
  assert.equal(lane.leave('ahead'), undefined);
  assert.ok(lane.enter('demand'));
  assert.equal(lane.leave('write'), 'write');
});

test('a drained lane has no queue', () => {
  const lane = new Lane<number>(1);
  lane.enter('demand');
  lane.wait(1, 'ahead');
  lane.wait(2, 'demand');
  lane.wait(3, 'write');
  assert.deepEqual(lane.drain(), [2, 1, 3]);
  assert.equal(lane.leave('demand'), undefined);
});
