-- Notes headers and the beginning of bodies for the audit log, on routes of rules that ask for it. Stands before
-- anything is injected. Bodies are not held up. What is noted is not yet redacted, but for its credentials.

local MOST_BYTES, MOST_HEADERS, LONGEST_VALUE = 65536, 100, 1024

local function headers_of(handle)
  local told, count = {}, 0
  for name, value in pairs(handle:headers()) do
    if count < MOST_HEADERS and not name:find("^:") and not name:find("^x%-cube%-") and not name:find("^x%-envoy%-") then
      count = count + 1
      told[name] = value:sub(1, LONGEST_VALUE)
    end
  end
  return told
end

local function capture(handle, key)
  local notes, parts, size = handle:streamInfo():dynamicMetadata(), {}, 0
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    local taken = math.min(length, MOST_BYTES - size)
    if taken > 0 then
      parts[#parts + 1] = chunk:getBytes(0, taken)
      size = size + taken
      -- After each part: a body may be cut off at any time.
      notes:set("cube", key, handle:base64Escape(table.concat(parts)))
    end
    if taken < length then
      notes:set("cube", key .. "_cut", true)
      return
    end
  end
end

function envoy_on_request(handle)
  handle:streamInfo():dynamicMetadata():set("cube", "request_headers", headers_of(handle))
  capture(handle, "request_body")
end

function envoy_on_response(handle)
  handle:streamInfo():dynamicMetadata():set("cube", "response_headers", headers_of(handle))
  capture(handle, "response_body")
end
