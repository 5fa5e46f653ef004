"""
Texts that nobody expects: every script, control characters, odd line ends, many encodings.
"""

# ruff: noqa: RUF001 (characters that look like others are the point here)


def every_character(*blocks):
    """All characters of some blocks of Unicode, sixteen in a line."""
    lines = []
    for start, stop in blocks:
        for first in range(start, stop, 16):
            lines.append(''.join(map(chr, range(first, first + 16))))
    return '\n'.join(lines)


# A text, its bytes, or its bytes and the name of their encoding.
TEXTS = {
    'one letter': 'a',
    'one letter twice': 'a\na',
    'one line': 'emma',
    'two equal lines': 'ava\nava\n',
    'a thousand equal lines': 'ava\n' * 1000,
    'a line of a hundred thousand': 'ab' * 50_000 + '\n',
    'lines of every length': '\n'.join('a' * n for n in range(70)),
    'one letter and a long line': 'a\n' + 'b' * 5000,
    'no line end': 'emma\nava',
    'line ends only at the end': 'emma\nava\n\n\n\n',
    'Windows': 'emma\r\nava\r\n',
    'old Mac': 'emma\rava\rmia',
    'line ends of every kind': 'emma\r\nava\rmia\n\rzoe\n\nliam',
    'indented': '    emma\n\tava\n  \tmia',
    'spaces within': 'emma lou\nava  may\nmia\tsue',
    'unusual spaces': 'a\u00a0b\nc\u3000d\ne\u2003f\n\u200b\n\u2060g',
    'a byte order mark': b'\xef\xbb\xbfemma\nava',
    'byte order marks within': 'em\ufeffma\n\ufeffava\nmia\ufeff',
    'NUL': 'a\0b\n\0\nc\0',
    'NUL alone': '\0\0\0',
    'C0 controls': '\n'.join(f'a{chr(c)}b' for c in range(32) if c not in (10, 13)),
    'DEL': 'a\x7fb\n\x7f\x7f',
    'C1 controls': '\n'.join(f'a{chr(c)}b' for c in range(0x80, 0xA0)),
    'escape sequences': '\x1b[31mred\x1b[0m\n\x1b]0;t\x07',
    'line separators': 'a\u2028b\nc\u2029d\ne\x85f\ng\x0bh\ni\x0cj\nk\x1cl',
    'Latin': 'zoë\nñandú\nœuvre\nčeština',
    'Greek and Cyrillic': 'Αθηνά\nМария\nЖанна',
    'Hebrew and Arabic': 'שָׁלוֹם\nמִרְיָם\nمحمد\nفاطمة',
    'both directions': 'abc שלום 123\nمرحبا hello',
    'marks of direction': 'a\u202eb\u202c\nc\u2066d\u2069\n\u200fe\u200e',
    'Indian': 'प्रिया\nস্নেহা\nகார்த்திக்\nലക്ഷ്മി',
    'Thai, Lao, Khmer': 'สมชาย\nຄຳ\nសុខា',
    'Chinese': '王伟\n李娜\n張偉',
    'Japanese': 'さくら\nハルト\n太郎',
    'Korean': '지우\n서연\n김철수',
    'Korean in pieces': '\u110c\u1175\u110b\u116e\n\u1109\u1165\u110b\u1167\u11ab',
    'Ethiopic': 'አበበ\nጽዮን',
    'combining marks': 'e\u0301\na\u0308\u0304\no\u0328\u0301',
    'a mark alone': '\u0301\n\u0308',
    'a hundred marks on a letter': 'z' + '\u0335\u0322\u0317' * 33 + '\nab',
    'composed and not': 'é\ne\u0301\nÅ\nA\u030a\n\u212b',
    'emoji': '😀\n🎉🎊\n👍🏽',
    'emoji joined to families': '👨\u200d👩\u200d👧\u200d👦\n🏳\ufe0f\u200d🌈',
    'emoji of flags': '🇩🇪\n🇫🇷🇮🇹',
    'plane 1': '𝔊𝔬𝔱𝔥\n𐌲𐌿𐍄\n𓀀𓁀',
    'plane 2': '𠀀𠀁\n𪚥\n𫝀',
    'plane 3': '\U00030000\U00030001\n\U0003134a',
    'plane 14': 'a\U000e0061\U000e007f\n\U000e0100',
    'planes 15 and 16': '\U000f0000\n\U0010fffd\U00100000',
    'noncharacters': '\ufffe\uffff\n\U0001ffff\n\ufdd0',
    'private use': '\ue000\uf8ff\nab',
    'replacement characters': '\ufffd\na\ufffdb',
    'every plane': '\n'.join(
        chr((plane << 16) + 0x100 + i) * 2 for plane in range(17) for i in range(3)
    ),
    'a thousand characters': every_character((0x4E00, 0x5000), (0xAC00, 0xAE00)),
    'names like options': '--help\n-i\n--resume\n-o x\n--\n-1',
    'names like files': '../../etc/passwd\n/dev/null\nC:\\CON\n~root\n@file\nout/x',
    'names like commands': '$(reboot)\n`id`\n; rm -rf /\n| cat\n&& ls',
    'names like formats': '%s %d %n\n{0} {x!r} {{}}\n%(a)s\n\\n \\x1b \\u0000',
    'names like markup': '<b>x</b>\n&amp; <script>\n[a](b) | c | d\n# t',
    'names like numbers': '0\n-1\n1e400\nnan\ninf\n0x10\n٣\n²',
    'names like code': 'None\nTrue\n__import__("os")\n[1, 2]\n{"a": 1}',
    'names like boundaries': '.\n..\n...\na.b.',
    'quotes': '"a"\n\'b\'\n"c""d"\n`e`',
    'a table': 'a,b,"c,d"\n1,2,3\n;\t;',
    'backslashes': '\\\n\\\\\na\\',
    'regular expressions': '.*\n(a+)+$\n[^\\]]{9}\n(?R)',
    'right after a blank page': '\n' * 5000 + 'emma\n',
    'latin-1': ('zoë\nÿ\n'.encode('latin-1'), 'latin-1'),
    'cp1252': ('“zoë”\n€\n'.encode('cp1252'), 'cp1252'),
    'utf-16': ('zoë\n日本\n😀'.encode('utf-16'), 'utf-16'),
    'utf-16 without a mark': ('zoë\n日本'.encode('utf-16-be'), 'utf-16-be'),
    'utf-32': ('zoë\n😀'.encode('utf-32'), 'utf-32'),
    'Shift JIS': ('太郎\n花子'.encode('shift_jis'), 'shift_jis'),
    'EUC-KR': ('지우\n서연'.encode('euc_kr'), 'euc_kr'),
    'GB 18030': ('王伟\n😀'.encode('gb18030'), 'gb18030'),
    'Big 5': ('張偉\n李娜'.encode('big5'), 'big5'),
    'KOI8-R': ('Мария\nЖанна'.encode('koi8-r'), 'koi8-r'),
    'ISO 2022': ('太郎\n花子'.encode('iso2022_jp'), 'iso2022_jp'),
    'utf-7': ('zoë\n日本'.encode('utf-7'), 'utf-7'),
    'EBCDIC': ('emma\nava'.encode('cp500'), 'cp500'),
    'UTF-8, misspelled': ('zoë\nmia'.encode(), 'UTF8'),
    'half surrogates': (b'a\\ud800b\nc\\udfffd\nef', 'unicode_escape'),
}


def encoded_text(name):
    """The bytes of one of the texts, and their encoding."""
    content = TEXTS[name]
    encoding = 'utf-8'
    if isinstance(content, tuple):
        content, encoding = content
    if isinstance(content, str):
        content = content.encode('utf-8')
    return content, encoding
