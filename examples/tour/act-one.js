// Act 1: a real file behind an ordinary ArrayBuffer, with an eighth of it in memory.
import { createHash } from 'node:crypto';
import { createReadStream, statSync } from 'node:fs';
import { map, systemPageSize } from 'pagefault';
import { formatBytes, renderSegment, terminalOf } from 'pagefault/observe';
import { file } from 'pagefault/stores';

const CHUNK = 2 ** 20;

/** Shows the act and says whether the bytes that came through faults are the file's. */
export async function actOne(path) {
  const terminal = terminalOf(process.stdout);
  const { size } = statSync(path);
  const resident = Math.max(systemPageSize(), Math.floor(size / 8));
  const segment = await map(file(path), { resident });
  try {
    console.log(terminal.paint('bold', `Act 1: ${path} as an ArrayBuffer`));
    console.log(`${formatBytes(size)} of file, at most ${formatBytes(resident)} of it in memory`);
    console.log(`backend ${segment.backend}: ${segment.backendReason}\n`);

    const start = performance.now();
    const seen = hashOfView(segment.view(Uint8Array));
    const elapsed = (performance.now() - start) / 1000;
    const expected = await hashOfFile(path);

    console.log(`${renderSegment(segment, terminal).join('\n')}\n`);
    const same = seen === expected;
    const verdict = same
      ? terminal.paint('green', 'equal to the file')
      : terminal.paint('red', 'NOT EQUAL to the file');
    const speed = `${formatBytes(size / elapsed)}/s`;
    console.log(
      `Result: ${formatBytes(size)} read by touching memory, ${speed}, SHA-256 ${seen.slice(0, 16)}…, ${verdict}\n`,
    );
    return same;
  } finally {
    await segment.close();
  }
}

/** Nothing here knows of pages: each chunk is read when the hash touches it. */
function hashOfView(bytes) {
  const hash = createHash('sha256');
  for (let offset = 0; offset < bytes.length; offset += CHUNK) hash.update(bytes.subarray(offset, offset + CHUNK));
  return hash.digest('hex');
}

async function hashOfFile(path) {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: CHUNK })) hash.update(chunk);
  return hash.digest('hex');
}
