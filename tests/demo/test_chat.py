"""The chat room: who is there, who gets what, and who is shown out."""

import pytest
import trio

from gateway.demo.chat import TEXT_CHARACTERS, Room
from gateway.protocol.records import DEFAULT_WINDOW_MESSAGES, RecordType
from tests.demo.conversation import Member, serving


async def test_what_one_sends_all_get_with_joining_and_leaving() -> None:
    async with serving(Room().chat) as dial, await dial() as link:
        hana = Member(link)
        me = {"id": "1", "name": "Hana"}
        assert await hana.join("a", "name=Hana") == {"type": "welcome", **me, "members": [me]}
        async with await dial() as other_link:
            ken = Member(other_link)
            other = {"id": "2", "name": "Ken"}
            assert await ken.join("b", "name=Ken") == {"type": "welcome", **other, "members": [me, other]}
            assert await hana.event() == {"type": "joined", **other}
            await ken.say("こんにちは")
            said = {"type": "said", **other, "text": "こんにちは"}
            assert [await hana.event(), await ken.event()] == [said, said]
            await other_link.send(RecordType.CLOSE, 0, 0, b'{"code":1000}')
            assert await hana.event() == {"type": "left", **other}


async def test_a_connection_that_drops_is_not_a_leaving() -> None:
    async with serving(Room().chat) as dial, await dial() as link:
        hana = Member(link)
        await hana.join("a", "name=Hana")
        async with await dial() as dropped:
            await Member(dropped).join("b", "name=Ken")
        assert (await hana.event())["type"] == "joined"
        await hana.say("are you there?")
        assert (await hana.event())["type"] == "said"
        async with await dial() as again:
            await again.open(seq=1, session="b", epoch=2)
            assert (await Member(again).event())["text"] == "are you there?"


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("", "Guest 1"),
        ("name=", "Guest 1"),
        ("name=%00%E2%80%AE%0a", "Guest 1"),
        ("name=+Hana++%E8%8A%B1%09Yamada+", "Hana 花Yamada"),
        ("name=" + "x" * 40, "x" * 30),
        ("name=%ff", "�"),
    ],
)
async def test_a_name_is_what_can_be_seen_of_it(query: str, name: str) -> None:
    async with serving(Room().chat) as dial, await dial() as link:
        assert (await Member(link).join("a", query))["name"] == name


async def test_what_does_not_fit_the_room_is_rejected() -> None:
    async with serving(Room().chat) as dial, await dial() as link:
        hana = Member(link)
        await hana.join("a", "")
        await hana.say("x" * (TEXT_CHARACTERS + 1))
        _, _, seq, body = await link.receive_only(RecordType.REJECT)
        assert (seq, b"1001 characters" in body) == (1, True)
        await link.data(2, b"binary")
        assert (await link.receive_only(RecordType.REJECT))[2] == 2


@pytest.mark.parametrize(
    ("command", "seconds"), [("/stall 0.01", 0.01), ("/stall 0", 0.0), ("/stall -3", 0.0), ("/stall a while", 0.0)]
)
async def test_a_stall_holds_back_the_acknowledgement(command: str, seconds: float) -> None:
    async with serving(Room().chat) as dial, await dial() as link:
        hana = Member(link)
        await hana.join("a", "name=Hana")
        began = trio.current_time()
        await hana.say(command)
        assert await hana.event() == {"type": "stalled", "seconds": seconds}
        await link.receive_ack(1)
        assert trio.current_time() - began >= seconds


async def test_a_stall_ends_with_its_session() -> None:
    async with serving(Room().chat) as dial, await dial() as link:
        ken = Member(link)
        await ken.join("a", "name=Ken")
        async with await dial() as other_link:
            hana = Member(other_link)
            await hana.join("b", "name=Hana")
            await hana.say("/stall 1e9")
            assert await hana.event() == {"type": "stalled", "seconds": 30.0}
            assert (await ken.event())["type"] == "joined"
            await other_link.send(RecordType.CLOSE, 0, 0, b'{"code":1000}')
            assert (await ken.event())["type"] == "left"


async def test_who_does_not_follow_is_shown_out_and_holds_nobody_up() -> None:
    async with serving(Room().chat) as dial, await dial() as link, await dial() as asleep:
        hana = Member(link)
        await hana.join("a", "name=Hana")
        await asleep.open(session="b", query="name=Ken")
        assert (await hana.event())["name"] == "Ken"
        left = 0
        for number in range(DEFAULT_WINDOW_MESSAGES + 1):
            await hana.say(f"line {number}")
            event = await hana.event()
            if event["type"] == "left":
                assert event == {"type": "left", "id": "2", "name": "Ken"}
                left += 1
                event = await hana.event()
            assert event["text"] == f"line {number}"
            await link.ack(number + 2)
        assert left == 1
        await asleep.ack(DEFAULT_WINDOW_MESSAGES)
        assert (await asleep.receive_close())[0] == 1013
