// The text that ClickPesa's published JavaScript signs: https://docs.clickpesa.com/home/checksum
//
// Functions alone, for whatever engine runs them.

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

function isObject(document) {
  return document !== null && typeof document === "object" && !Array.isArray(document);
}

function signedPart(document) {
  if (!isObject(document)) return document;
  const { checksum, checksumMethod, ...rest } = document;
  return rest;
}

function canonicalText(document) {
  return JSON.stringify(canonicalize(signedPart(document)));
}

function legacyText(document) {
  const members = signedPart(document);
  const sorted = {};
  for (const name of Object.keys(members).sort()) sorted[name] = members[name];
  return Object.values(sorted).join("");
}
