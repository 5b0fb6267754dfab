import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkKeys, nearest } from '#dist/options/keys.js';

test('a misspelt option is a TypeError that names the one that was meant', () => {
  assert.throws(() => checkKeys('map()', { readAhead: 0 }, ['resident', 'readahead']), {
    name: 'TypeError',
    code: 'ERR_PAGEFAULT_UNKNOWN_OPTION',
    message: "map(): there is no option 'readAhead'; did you mean 'readahead'?",
  });
});

test('an option that is like no other is a TypeError that lists those there are', () => {
  assert.throws(() => checkKeys('map()', { qqqqqqqq: 0 }, ['resident', 'pad']), {
    message: "map(): there is no option 'qqqqqqqq'; known are resident, pad",
  });
});

test('options that are no object are a TypeError', () => {
  for (const options of [null, 1, 'x', [], () => {}]) {
    assert.throws(() => checkKeys('map()', options, []), {
      name: 'TypeError',
      message: /the options must be an object/,
    });
  }
});

test('the nearest word is the one with the fewest edits, and none when all are far', () => {
  assert.equal(nearest('pagesize', ['pageSize', 'resident']), 'pageSize');
  assert.equal(nearest('resdient', ['pageSize', 'resident']), 'resident');
  assert.equal(nearest('x', ['pageSize', 'resident']), undefined);
});
