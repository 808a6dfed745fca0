// Signs as ClickPesa's published JavaScript does: https://docs.clickpesa.com/home/checksum
//
// Reads one JSON document a line from stdin, in hexadecimal because documents hold line breaks.
// Writes a line for each: the canonical text in hexadecimal, its HMAC by the key that is the
// first argument, and the legacy text in hexadecimal (`-` where the document is no object).

import { createHmac } from "node:crypto";
import { createInterface } from "node:readline";

function canonicalize(value) {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map(canonicalize);
  return Object.keys(value)
    .sort()
    .reduce((sorted, name) => {
      sorted[name] = canonicalize(value[name]);
      return sorted;
    }, {});
}

function legacyText(members) {
  const sorted = {};
  for (const name of Object.keys(members).sort()) sorted[name] = members[name];
  return Object.values(sorted).join("");
}

function sign(document, key) {
  const isObject = document !== null && typeof document === "object" && !Array.isArray(document);
  let signed = document;
  if (isObject) {
    const { checksum, checksumMethod, ...rest } = document;
    signed = rest;
  }
  const canonical = JSON.stringify(canonicalize(signed));
  const legacy = isObject ? Buffer.from(legacyText(signed)).toString("hex") : "-";
  const hmac = createHmac("sha256", key).update(canonical).digest("hex");
  return `${Buffer.from(canonical).toString("hex")} ${hmac} ${legacy}`;
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(sign(JSON.parse(Buffer.from(line, "hex").toString()), process.argv[2]));
}
