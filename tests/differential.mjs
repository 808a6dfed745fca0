// Signs as ClickPesa's published JavaScript does, which is in sender.js.
//
// Reads one JSON document a line from stdin, in hexadecimal because documents hold line breaks.
// Writes a line for each: the canonical text in hexadecimal, its HMAC by the key that is the
// first argument, and the legacy text in hexadecimal (`-` where the document is no object).

import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { runInThisContext } from "node:vm";

runInThisContext(readFileSync(new URL("sender.js", import.meta.url), "utf8"));

function sign(document, key) {
  const canonical = canonicalText(document);
  const legacy = isObject(document) ? Buffer.from(legacyText(document)).toString("hex") : "-";
  const hmac = createHmac("sha256", key).update(canonical).digest("hex");
  return `${Buffer.from(canonical).toString("hex")} ${hmac} ${legacy}`;
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(sign(JSON.parse(Buffer.from(line, "hex").toString()), process.argv[2]));
}
