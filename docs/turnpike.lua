-- Dissector for Turnpike's tag (docs/wire-format.md).
-- tshark -X lua_script:docs/turnpike.lua -r capture.pcap

local turnpike = Proto("turnpike", "Turnpike tag")

local kinds = { [1] = "label", [2] = "IPv4 terminal", [3] = "IPv6 terminal", [4] = "OAM" }
local fields = {
    version = ProtoField.uint8("turnpike.version", "Version", base.DEC, nil, 0xf0),
    kind = ProtoField.uint8("turnpike.kind", "Kind", base.DEC, kinds, 0x0f),
    label = ProtoField.uint64("turnpike.label", "Label", base.HEX),
    index = ProtoField.uint32("turnpike.index", "Index", base.DEC),
    generation = ProtoField.uint32("turnpike.generation", "Generation", base.HEX),
    length = ProtoField.uint16("turnpike.length", "Length", base.DEC),
}
turnpike.fields = fields
turnpike.prefs.port = Pref.uint("UDP port", 47700, "The tag port of the nodes")

local bad_length = ProtoExpert.new("turnpike.bad_length", "Length differs from the datagram's",
    expert.group.MALFORMED, expert.severity.ERROR)
turnpike.experts = { bad_length }

local rtp = Dissector.get("rtp")
local TAG_BYTES = 8

function turnpike.dissector(buffer, info, tree)
    if buffer:len() < TAG_BYTES then
        return 0
    end
    info.cols.protocol = "TURNPIKE"
    local high = buffer(1, 1):uint()
    local low = buffer(4, 4):uint()
    local index = low % 0x100000
    local generation = high * 0x1000 + math.floor(low / 0x100000)
    local length = buffer(2, 2):uint()
    local branch = tree:add(turnpike, buffer(0, TAG_BYTES))
    branch:add(fields.version, buffer(0, 1))
    branch:add(fields.kind, buffer(0, 1))
    branch:add(fields.label, buffer(1, 7), UInt64(low, high))
    branch:add(fields.index, buffer(4, 4), index)
    branch:add(fields.generation, buffer(1, 7), generation)
    local item = branch:add(fields.length, buffer(2, 2))
    info.cols.info = string.format("label 0x%02x%08x, %d bytes", high, low, length)
    if length ~= buffer:len() - TAG_BYTES then
        item:add_proto_expert_info(bad_length)
    elseif length >= 12 and math.floor(buffer(TAG_BYTES, 1):uint() / 64) == 2 then
        rtp:call(buffer(TAG_BYTES):tvb(), info, tree)
    end
    return buffer:len()
end

DissectorTable.get("udp.port"):add(turnpike.prefs.port, turnpike)
