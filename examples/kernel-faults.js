// A view of a file that is larger than its limit, handed to system calls: with kernelFaults: true missing pages are brought to them, too.
// Needs root, CAP_SYS_PTRACE, the sysctl vm.unprivileged_userfaultfd=1, or /dev/userfaultfd; where that is missing the segment says what would help.
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { map } from 'pagefault';
import { file } from 'pagefault/stores';

const folder = mkdtempSync(join(tmpdir(), 'pagefault-example-'));
try {
  const path = join(folder, 'data.bin');
  writeFileSync(path, Buffer.alloc(4 * 2 ** 20, 'pagefault '));
  const segment = await map(file(path), { kernelFaults: true, resident: '1MiB' });
  const out = openSync(join(folder, 'copy.bin'), 'w');
  try {
    console.log(`backend ${segment.backend}: ${segment.backendReason}`);
    let written = 0;
    while (written < segment.byteLength) written += writeSync(out, segment.view(Uint8Array, written)); // not one page was there
    const { loads, residentBytes } = segment.stats();
    console.log(
      `wrote ${written / 2 ** 20} MiB: ${loads} pages loaded, ${residentBytes / 2 ** 20} MiB or less at once`,
    );
    console.log(
      readFileSync(join(folder, 'copy.bin')).equals(readFileSync(path)) ? 'the copy is right' : 'the copy is WRONG',
    );
  } finally {
    closeSync(out);
    await segment.close();
  }
} catch (error) {
  if (error.code !== 'ERR_PAGEFAULT_UNSUPPORTED') throw error;
  console.log(error.message); // without the privilege: segment.writeTo(fd) does the same work
} finally {
  rmSync(folder, { recursive: true });
}
