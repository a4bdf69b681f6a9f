// The program that node runs for a JavaScript context, under node_host.py. Requests and answers are lines of JSON on the
// two descriptors that it is given.
//
// Cells are evaluated through V8's own inspector in REPL mode: it knows top-level await, lets a cell declare a name
// again, and yields the value of the last expression. Node's vm module wraps the call because it can break an endless
// loop on SIGINT.
"use strict";

const childProcess = require("child_process");
const fs = require("fs");
const inspector = require("inspector");
const net = require("net");
const nodeModule = require("module");
const readline = require("readline");
const util = require("util");
const vm = require("vm");

const [requestsFd, answersFd] = process.argv.slice(1).map(Number);
const cell = {};
const session = new inspector.Session();
session.connect();

const answer = (value) => {
  let rest = Buffer.from(JSON.stringify(value) + "\n");
  while (rest.length) rest = rest.subarray(fs.writeSync(answersFd, rest));
};

const importer = (name) => import(name);
Object.defineProperty(globalThis, Symbol.for("cube.cell"), { value: cell });
Object.defineProperty(globalThis, "__cube_import", { value: importer });
globalThis.require = nodeModule.createRequire(process.cwd() + "/");
globalThis.module = { exports: {} };

// Static imports become dynamic ones, which a cell may contain; dynamic ones go through a function that node lets import.
const IMPORT = /(?<=^|;)[ \t]*import\s+(?:([\w$]+)\s*(?:,\s*)?)?(?:\*\s*as\s+([\w$]+)|\{([^}]*)\})?\s*(?:from\s*)?(["'][^"'\n]+["'])[ \t]*;?/gm;

const EXPORT = /^([ \t]*)export\s+(?:default\s+(?=(?:async\s+)?(?:function|class)\s+[\w$]))?(?=(?:async\s+function|const|let|var|function|class)\b)/gm;

function withImports(code) {
  const single = code.replace(IMPORT, (line, main, whole, names, source) => {
    const parts = [];
    if (main) parts.push(`default: ${main}`);
    if (names) parts.push(...names.split(",").map((name) => name.trim().replace(/\s+as\s+/, ": ")).filter(Boolean));
    const load = `await __cube_import(${source})`;
    const bindings = parts.length ? `const {${parts.join(", ")}} = ${load};` : `${load};`;
    return whole ? `const ${whole} = ${load};` + (main ? bindings : "") : bindings;
  });
  // A cell is nobody's module: what it exports it declares.
  const declared = single.replace(EXPORT, "$1");
  return declared.replace(/(?<![\w$.])import\s*\(/g, "__cube_import(");
}

// Names that are imported for a later cell must stay, so nothing is left out for being unused.
const ESBUILD = [
  "--loader=ts", "--format=esm", "--target=node18", "--tree-shaking=false", "--log-level=error", "--color=false",
  '--tsconfig-raw={"compilerOptions":{"importsNotUsedAsValues":"preserve","preserveValueImports":true}}',
];

function withoutTypes(code) {
  const done = childProcess.spawnSync("esbuild", ESBUILD, { input: code, encoding: "utf8", maxBuffer: 1 << 26 });
  if (!done.error && done.status === 0) return done.stdout;
  if (!done.error) throw new SyntaxError(done.stderr.trim());
  if (nodeModule.stripTypeScriptTypes) return nodeModule.stripTypeScriptTypes(code, { mode: "transform" });
  const missing = `TypeScript needs esbuild, or Node 22.13, in the image of the sandbox; this is ${process.version}.`;
  throw new Error(missing);
}

const post = (method, parameters) =>
  new Promise((resolve, reject) => {
    cell.go = () => session.post(method, parameters, (error, value) => (error ? reject(error) : resolve(value)));
    vm.runInThisContext("globalThis[Symbol.for('cube.cell')].go()", { breakOnSigint: true });
  });

// The inspector speaks of values by reference; this gets the value itself.
async function valueOf(remote) {
  cell.value = undefined;
  const { type, subtype, description, className, ...reference } = remote;
  await post("Runtime.callFunctionOn", {
    functionDeclaration: "function (value) { this[Symbol.for('cube.cell')].value = value; }",
    objectId: cell.globalId,
    arguments: [reference],
  });
  return cell.value;
}

async function evaluate(code) {
  const outcome = await post("Runtime.evaluate", {
    expression: code,
    replMode: true,
    awaitPromise: true,
    objectGroup: "cell",
  });
  const value = await valueOf(outcome.exceptionDetails ? outcome.exceptionDetails.exception : outcome.result);
  if (outcome.exceptionDetails) throw value;
  return value;
}

// Waits for asynchronous code, unless SIGINT comes first.
function interruptible(promise) {
  return new Promise((resolve, reject) => {
    const interrupted = () => reject(Object.assign(new Error("The cell was interrupted"), { name: "KeyboardInterrupt" }));
    process.once("SIGINT", interrupted);
    promise.then(resolve, reject).finally(() => process.removeListener("SIGINT", interrupted));
  });
}

function report(error) {
  if (error && error.code === "ERR_SCRIPT_EXECUTION_INTERRUPTED") {
    return { name: "KeyboardInterrupt", value: "The cell was interrupted", traceback: "KeyboardInterrupt" };
  }
  if (!(error instanceof Error)) {
    const text = util.inspect(error);
    return { name: "Error", value: text, traceback: `Uncaught ${text}` };
  }
  const stack = String(error.stack).split("\n");
  const ours = stack.findIndex((line) => line.includes("node:inspector"));
  return {
    name: String(error.name),
    value: String(error.message),
    traceback: (ours < 0 ? stack : stack.slice(0, ours)).join("\n"),
  };
}

function jsonOf(value) {
  if (typeof value !== "object" || value === null || util.types.isProxy(value)) return undefined;
  const plain = Array.isArray(value) || [Object.prototype, null].includes(Object.getPrototypeOf(value));
  try {
    return plain ? JSON.parse(JSON.stringify(value)) : undefined;
  } catch {
    return undefined;
  }
}

// What a value can say of itself: in the names of Jupyter's JavaScript kernels, or as MIME types.
const METHODS = {
  _toHtml: "text/html", _toSvg: "image/svg+xml", _toPng: "image/png", _toJpeg: "image/jpeg", _toMarkdown: "text/markdown",
  _toLatex: "text/latex", _toJson: "application/json",
};

function representations(value) {
  const data = {};
  if (value === null || typeof value !== "object" || util.types.isProxy(value)) return data;
  for (const [method, mime] of Object.entries(METHODS)) {
    if (typeof value[method] === "function") data[mime] = value[method]();
  }
  if (typeof value._toMime === "function") Object.assign(data, value._toMime());
  return data;
}

function show(value, main) {
  const data = { "text/plain": util.inspect(value), ...representations(value) };
  const json = jsonOf(value);
  if (json !== undefined && data["application/json"] === undefined) data["application/json"] = json;
  answer({ type: "result", main, data });
}

const bundle = (data) => answer({ type: "result", main: false, data });
const displays = Object.fromEntries(
  Object.entries(METHODS).map(([method, mime]) => [method.slice(3).toLowerCase(), (value) => bundle({ [mime]: value })])
);
globalThis.display = (value) => show(value, false);
globalThis.$$ = { ...displays, text: (value) => bundle({ "text/plain": String(value) }), mime: (data) => bundle({ ...data }) };

async function withEnvironment(variables, body) {
  const former = Object.fromEntries(Object.keys(variables).map((name) => [name, process.env[name]]));
  Object.assign(process.env, variables);
  try {
    return await body();
  } finally {
    for (const [name, value] of Object.entries(former)) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  }
}

// This process is a copy. V8 and OpenSSL keep the state of their generators and take no new seed, so what they draw is what
// other copies draw; from now on the operating system is asked, which has been reseeded.
function reseed() {
  const urandom = fs.openSync("/dev/urandom", "r");
  const fill = (bytes) => {
    for (let at = 0; at < bytes.length; ) at += fs.readSync(urandom, bytes, at, bytes.length - at);
    return bytes;
  };
  const fresh = (size) => fill(Buffer.allocUnsafeSlow(size));
  const bytesOf = (view) =>
    ArrayBuffer.isView(view) ? new Uint8Array(view.buffer, view.byteOffset, view.byteLength) : new Uint8Array(view);
  const uuid = () => {
    const bytes = fresh(16);
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
  };
  const later = (value, callback) => (callback ? void process.nextTick(callback, null, value) : value);
  Math.random = () => (fresh(8).readBigUInt64LE() >> 11n).toString() / 2 ** 53;
  const crypto = require("crypto");
  crypto.randomBytes = crypto.pseudoRandomBytes = (size, callback) => later(fresh(size), callback);
  crypto.randomUUID = uuid;
  crypto.randomFillSync = (view, offset = 0, size = undefined) => {
    const bytes = bytesOf(view);
    fill(bytes.subarray(offset, size === undefined ? bytes.length : offset + size));
    return view;
  };
  crypto.webcrypto.getRandomValues = (view) => (fill(bytesOf(view)), view);
  crypto.webcrypto.randomUUID = uuid;
}

async function carryOut(request) {
  if (request.op === "execute") return run(request);
  if (request.op === "environment") Object.assign(process.env, request.variables);
  if (request.op === "reseed") reseed();
  answer({ type: "done", id: request.id });
}

async function run(request) {
  try {
    const code = withImports(request.typescript ? withoutTypes(request.code) : request.code);
    const value = await withEnvironment(request.env, () => interruptible(evaluate(code)));
    if (value !== undefined) show(value, true);
  } catch (error) {
    answer({ type: "error", ...report(error) });
  }
  session.post("Runtime.releaseObjectGroup", { objectGroup: "cell" });
  answer({ type: "done", id: request.id });
}

// Whatever a cell has written to the pipe of requests is none.
function parsed(line) {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

async function main() {
  process.on("SIGINT", () => {});
  for (const event of ["uncaughtException", "unhandledRejection"]) {
    process.on(event, (error) => console.error(report(error).traceback));
  }
  const outcome = await post("Runtime.evaluate", { expression: "globalThis" });
  cell.globalId = outcome.result.objectId;
  const requests = new net.Socket({ fd: requestsFd, readable: true, writable: false });
  for await (const line of readline.createInterface({ input: requests, crlfDelay: Infinity })) {
    const request = parsed(line);
    if (request && typeof request.op === "string") await carryOut(request);
  }
  process.exit(0);
}

main();
