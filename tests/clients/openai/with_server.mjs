// Runs test.mjs against a server of its own:
//
//   node with_server.mjs PROGRAM [ARGUMENT...]
//
// The program prints a line with its address ("... http://127.0.0.1:8000/v1") when it serves, and ends at
// SIGTERM or when its standard input does.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const start_timeout_ms = 300_000;
const [program, ...args] = process.argv.slice(2);
const server = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
const server_ended = new Promise((resolve) => server.on('close', (status, signal) => resolve(status ?? signal)));

const address = await Promise.race([
  (async () => {
    for await (const line of createInterface({ input: server.stdout })) {
      console.log(line);
      const found = line.match(/https?:\/\/\S+/);
      if (found) return found[0];
    }
  })(),
  new Promise((resolve) => setTimeout(resolve, start_timeout_ms)),
]);
if (!address) {
  console.error(`${program} gave no address in ${start_timeout_ms} ms`);
  server.kill('SIGKILL');
  process.exit(1);
}
server.stdout.resume();

const test = spawn(process.execPath, [fileURLToPath(new URL('test.mjs', import.meta.url)), address], { stdio: 'inherit' });
const status = await new Promise((resolve) => test.on('exit', (code) => resolve(code ?? 1)));
server.stdin.end();
server.kill('SIGTERM');
const ended = await server_ended;
const ended_well = ended === 0 || ended === 'SIGTERM';
console.log(`the server ended with ${ended}${ended_well ? '' : ', expected 0 or SIGTERM'}`);
process.exit(ended_well ? status : 1);
