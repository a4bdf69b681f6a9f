-- Notes headers and the beginning of bodies for the audit log, on routes of rules that ask for it. Stands before
-- anything is injected. Bodies are not held up. What is noted is not yet redacted, but for its credentials.

local MOST_BYTES, MOST_HEADERS, LONGEST_VALUE = 65536, 100, 1024

-- Looked up each time: what Envoy hands out does not outlive a pause for the next part of a body.
local function note(handle, key, value)
  handle:streamInfo():dynamicMetadata():set("cube", key, value)
end

-- Not the sandbox's, and not the server's.
local function is_ours(name)
  return name:find("^:") or name:find("^x%-cube%-") or name:find("^x%-envoy%-") or name == "x-forwarded-proto"
end

local function headers_of(handle)
  local told, count = {}, 0
  for name, value in pairs(handle:headers()) do
    if count < MOST_HEADERS and not is_ours(name) then
      count = count + 1
      told[name] = value:sub(1, LONGEST_VALUE)
    end
  end
  return told
end

local function capture(handle, key)
  local parts, size = {}, 0
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    local taken = math.min(length, MOST_BYTES - size)
    if taken > 0 then
      parts[#parts + 1] = chunk:getBytes(0, taken)
      size = size + taken
      -- After each part: a body may be cut off at any time.
      note(handle, key, handle:base64Escape(table.concat(parts)))
    end
    if taken < length then
      note(handle, key .. "_cut", true)
      return
    end
  end
end

function envoy_on_request(handle)
  note(handle, "request_headers", headers_of(handle))
  capture(handle, "request_body")
end

function envoy_on_response(handle)
  note(handle, "response_headers", headers_of(handle))
  capture(handle, "response_body")
end
