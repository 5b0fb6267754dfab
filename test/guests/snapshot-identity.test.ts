/** What a snapshot's identity tells apart: working sets are bound to it. */
import assert from 'node:assert/strict';
import { utimesSync } from 'node:fs';
import { test } from 'node:test';
import { map } from 'pagefault';
import { custom, file, memory, zero } from 'pagefault/stores';
import { Snapshot, type SnapshotSource } from '#dist/guests/engine/index.js';
import { openFds } from '../helpers/descriptors.js';
import { patternBytes, patternFile, patternModule } from '../helpers/stores.js';

const BYTES = 64 * 4096;

async function identityOf(source: SnapshotSource): Promise<string> {
  const snapshot = await Snapshot.open(source);
  try {
    assert.match(snapshot.identity, /^[0-9a-f]{64}$/);
    return snapshot.identity;
  } finally {
    await snapshot.close();
  }
}

test('a snapshot has the same identity each time, and another one than any other', async () => {
  const path = patternFile(BYTES);
  const sources: SnapshotSource[] = [
    path,
    patternFile(BYTES),
    [path, patternFile(BYTES)],
    file(path, { offset: 4096 }),
    file(path, { byteLength: BYTES / 2 }),
    memory(patternBytes(BYTES)),
    memory(new Uint8Array(BYTES)),
    zero(BYTES),
    custom(patternModule, { byteLength: BYTES }),
    custom(patternModule, { byteLength: BYTES, seed: 1 }),
  ];
  const identities: string[] = [];
  for (const source of sources) identities.push(await identityOf(source));
  assert.equal(new Set(identities).size, sources.length);
  const before = openFds();
  for (const [i, source] of sources.entries()) assert.equal(await identityOf(source), identities[i]);
  assert.equal(openFds(), before);
});

test('a file that was changed is another snapshot, whatever part of it is shown', async () => {
  const path = patternFile(BYTES);
  for (const source of [path, [path], file(path), file(path, { offset: 4096 })]) {
    const before = await identityOf(source);
    utimesSync(path, 1, Math.random() * 1e9);
    assert.notEqual(await identityOf(source), before);
  }
});

test('a segment is told apart by its store, not by its name', async () => {
  const path = patternFile(BYTES);
  const segments = await Promise.all([
    map(file(path), { name: 'vm' }),
    map(file(path), { name: 'vm', offset: 4096 }),
    map(zero(BYTES), { name: 'vm' }),
  ]);
  const again = await map(file(path), { name: 'another' });
  try {
    const identities = await Promise.all([...segments, again].map(identityOf));
    assert.equal(new Set(identities).size, segments.length);
    assert.equal(identities[0], identities.at(-1));
  } finally {
    for (const segment of [...segments, again]) await segment.close();
  }
});
