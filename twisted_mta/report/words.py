"""What a report says to people: why it comes, what the status means, what to do.

Source: RFC 3463 §3 (what the status codes stand for), RFC 8689 §4.2.1 (those of TLS).
"""

from __future__ import annotations

_ADVICE = {
    "1.0": "The address was refused. Check it, or ask the recipient for the right one.",
    "1.1": "There is no such mailbox. Check the address for a typing mistake, or ask the recipient for the right one.",
    "1.2": "The part after the @ is no domain that takes mail. Check it for a typing mistake.",
    "1.3": "The address is not well formed. Check it for a typing mistake.",
    "1.6": "The recipient has moved and left no new address. Ask them for it by other means.",
    "1.8": "Your own address was not accepted there. Ask your provider's support, and show them this report.",
    "1.10": "The domain takes no mail at all. Check the address for a typing mistake.",
    "2.1": "The mailbox is switched off. Reach the recipient by other means.",
    "2.2": "The mailbox is full. Send the message again later, or reach the recipient by other means.",
    "2.3": "The message is too large for this mailbox. Send it with less or smaller attachments, or share a link.",
    "2.4": "The mailing list could not be expanded. Tell whoever keeps it.",
    "3.4": "The message is too large for their mail system. Send it with less or smaller attachments, or share a link.",
    "3.3": "Their mail system does not do what you asked for, such as delivery by a certain time. Send it without.",
    "4.4": "No mail server was found for this domain. Check the part after the @ for a typing mistake.",
    "4.7": "It could not be delivered in the time there was for it. Reach the recipient by other means.",
    "4.6": "The message went round in a circle, between addresses that forward to each other. Tell the recipient.",
    "5.3": "Too many recipients at once. Send the message to fewer at a time.",
    "5.6": "The message is built in a way their mail system does not take.",
    "6.0": "The content is of a kind their mail system does not take.",
    "6.3": "Their mail system takes plain text only, and the message cannot be changed into that without breaking it. "
    "Send it without a signature, or have your mail program encode it (quoted-printable or base64).",
    "6.7": "Their mail system does not take addresses with such letters. Use, or ask for, one with A to Z only.",
    "6.9": "Their mail system does not take this header. Use a mail program that encodes letters beyond A to Z.",
    "7.0": "Their mail system does not accept this message. If you think that is wrong, show them this report.",
    "7.1": "Their mail system does not accept mail from you to this address. If you think that is wrong, reach the "
    "recipient by other means and show them this report.",
    "7.10": "You have asked for encryption on all of the way, and it cannot be had. Send the message without asking "
    "for it, if it may be read on its way, or reach the recipient by other means.",
    "7.30": "You have asked for encryption on all of the way, and their mail system does not promise it. Send the "
    "message without asking for it, if it may be read on its way, or reach the recipient by other means.",
}

_BY_SUBJECT = {
    "1": "The address was refused. Check it, or ask the recipient for the right one.",
    "2": "The mailbox does not take the message. Reach the recipient by other means.",
    "3": "Their mail system does not take the message. Try again later, or reach the recipient by other means.",
    "4": "The way to their mail system does not work. Check the part after the @, or try again later.",
    "5": "The mail servers did not understand each other. Ask your provider's support, and show them this report.",
    "6": "The content of the message is not accepted there. Send it in a simpler form.",
    "7": "Their mail system does not accept this message. If you think that is wrong, show them this report.",
}

_GENERAL = "Check the address, or reach the recipient by other means. Your provider's support can read this report."


def opening(kind: str, recipients: int, about_report: bool) -> str:
    """The first sentences."""
    whom = "the recipient" if recipients == 1 else f"{recipients} recipients"
    if kind == "delayed":
        return (
            f"Your message has not reached {whom} below yet. You need not do anything: it is kept, and delivery is "
            "tried again and again. Please do not send it a second time."
        )
    if kind == "delivered":
        return f"Your message has been delivered to {whom} below. You get this because you asked for it."
    if kind == "relayed":
        return (
            f"Your message for {whom} below has been given to the next mail system, which does not report on success: "
            "you will hear no more unless delivery fails there. You get this because you asked for it."
        )
    if about_report:
        return (
            f"A message without a sender, most likely a report like this one, could not be delivered to {whom} below. "
            "There is nobody else to tell, so it comes to you as the postmaster."
        )
    return f"Your message could not be delivered to {whom} below, and it will not be tried again."


def advice(kind: str, status: str, expired: bool) -> str:
    """What the status means to the sender of a message, and what they can do."""
    if kind == "delayed":
        return "Delivery is tried again."
    if kind != "failed":
        return ""
    if expired:
        return (
            "It was tried again and again until the time for that was over. Check the part of the address after the @ "
            "for a typing mistake, reach the recipient by other means, or send the message again later."
        )
    detail = status.partition(".")[2]
    return _ADVICE.get(detail) or _BY_SUBJECT.get(detail[:1], _GENERAL)


def outlook(until: str) -> str:
    """How a delay ends."""
    return f"If it cannot be delivered by {until}, it is returned to you and you are told."
