"""Words for what faces and voices can show, far beyond the emotions that data sets name.

Fine-tuning on eight labels would let a text tower forget how all other feelings relate to them; the prior-preserving
loss of stage 1 holds it to what it knew of these. The selection is this project's own.
"""

import re
from collections.abc import Sequence
from functools import cache

from .prompts import ACTIONS, LABELS, SYNONYMS, prompts_for, with_article
from .sample import EMOTIONS, LEVELS

ADJECTIVES = """
absorbed accepting admiring adoring affectionate afraid aggravated aggressive agitated agonised alarmed alert aloof
amazed ambivalent amused angry anguished annoyed anxious apathetic apologetic appalled appreciative apprehensive
ardent arrogant ashamed assertive assured astonished attentive awed awestruck awkward baffled bashful bemused
bereaved betrayed bewildered bitter bleak blissful bold bored brave breathless bright brooding calm captivated
carefree caring cautious cheerful cheeky coy cold comfortable compassionate composed concerned confident confused
contemptuous content courageous crushed curious cynical dazed defeated defensive defiant dejected delighted
dependable depressed desperate despondent detached determined devastated devoted disappointed disapproving
disbelieving discontented discouraged disdainful disgusted disheartened disillusioned dismayed dismissive
disoriented distant distracted distraught distressed distrustful dominant doubtful dreamy drowsy dubious dull eager
earnest ecstatic elated embarrassed empathetic empty enchanted encouraged energetic engrossed enraged enthusiastic
envious euphoric exasperated excited exhausted expectant fascinated fearful fierce flattered flirtatious flustered
focused fond forgiving forlorn frantic friendly frightened frustrated furious gentle giddy glad gleeful gloomy
grateful greedy grieving grim grumpy guilty happy hateful heartbroken helpless hesitant homesick hopeful hopeless
horrified hostile humble humiliated hurt hysterical impatient impressed indifferent indignant inquisitive insecure
insulted interested intrigued irritated jealous jolly jovial joyful jubilant kind lonely longing loving mad
melancholic merry mischievous miserable mocking moody mournful moved mystified nauseated nervous neutral nostalgic
numb offended optimistic outraged overjoyed overwhelmed pained panicked passionate peaceful pensive perplexed
pessimistic petrified playful pleading pleased polite powerless preoccupied proud puzzled quizzical reassured
reassuring rebellious reflective regretful rejected relaxed relieved reluctant remorseful repulsed resentful
reserved resigned resolute respectful restless revolted sad sarcastic satisfied scared sceptical scornful seductive
sensitive sentimental serene serious shaken shocked shy sincere sleepy sluggish smitten smug sneering solemn sombre
sorrowful sour spiteful startled stern stoic stressed stubborn stunned sulking surprised suspicious sympathetic
teasing tempted tender tense terrified thankful thoughtful thrilled timid tired tormented touched tranquil troubled
trusting uncertain uncomfortable uneasy unhappy upset vengeful vigilant vulnerable wary weary weeping whimsical
wistful worried yearning zealous
""".split()  # noqa: SIM905
# Which of them mean which emotion, generously: a word may belong to several, and many belong to none.
MEANINGS = {
    "angry": """
    aggravated aggressive agitated angry annoyed betrayed bitter defiant disapproving discontented enraged exasperated
    fierce frustrated furious grumpy hateful hostile impatient indignant insulted irritated mad moody offended outraged
    rebellious resentful sour spiteful stern sulking upset vengeful
    """,
    "contempt": """
    aloof arrogant cold contemptuous cynical disapproving disdainful dismissive distant hateful indifferent mocking
    sarcastic sceptical scornful smug sneering teasing
    """,
    "disgusted": "appalled disapproving disgusted hateful horrified nauseated offended repulsed revolted sour",
    "fear": """
    afraid agitated alarmed anxious apprehensive cautious concerned defensive desperate distraught distressed fearful
    frantic frightened helpless hesitant horrified hysterical insecure nervous overwhelmed panicked petrified powerless
    restless scared shaken shocked shy startled stressed suspicious tense terrified timid tormented troubled uncertain
    uncomfortable uneasy upset vigilant vulnerable wary worried
    """,
    "happy": """
    amused blissful carefree cheeky cheerful content delighted ecstatic elated enchanted energetic enthusiastic
    euphoric excited flattered giddy glad gleeful grateful happy hopeful jolly jovial joyful jubilant merry mischievous
    optimistic overjoyed playful pleased proud relieved satisfied smitten thankful thrilled whimsical
    """,
    "neutral": """
    apathetic assured calm comfortable composed detached dull indifferent neutral numb peaceful relaxed reserved serene
    serious stoic tranquil
    """,
    "sad": """
    agonised anguished bereaved bitter bleak brooding crushed defeated dejected depressed desperate despondent
    devastated disappointed discouraged disheartened disillusioned dismayed distraught distressed empty forlorn gloomy
    grieving grim heartbroken helpless homesick hopeless humiliated hurt lonely longing melancholic miserable moody
    mournful nostalgic numb pained pensive pessimistic powerless regretful rejected remorseful resigned sad solemn
    sombre sorrowful tormented troubled unhappy upset weary weeping wistful yearning
    """,
    "surprised": """
    alarmed alert amazed astonished awed awestruck baffled bewildered breathless confused curious dazed disbelieving
    expectant fascinated impressed inquisitive intrigued mystified overwhelmed perplexed puzzled quizzical shaken
    shocked startled stunned surprised
    """,
}
# Of words, longest first.
ENDINGS = "ened ified iness ness ated ious able ish ive ied ing ful ked ous ed er y e".split()  # noqa: SIM905
SHORT = 4  # letters: shorter words and stems say too little by themselves
MODIFIERS = {"deeply", "utterly", "openly", "mildly", "off", "out", "put", "taken"}  # of a synonym's several words
FRAMES = (
    "a person talking with {a_word} face",
    "the speaker looks {word}",
    "someone who sounds {word}",
    "{a_word} voice",
)


def emotion_sentences() -> list[str]:
    """Several hundred sentences, each once: every adjective in two frames, and all descriptions used in training."""
    sentences = [
        frame.format(word=word, a_word=with_article(word))
        for i, word in enumerate(ADJECTIVES)
        for frame in (FRAMES[i % len(FRAMES)], FRAMES[(i + 1) % len(FRAMES)])
    ]
    described = [prompt for emotion in EMOTIONS for level in LEVELS for prompt in prompts_for(emotion, level)]
    return list(dict.fromkeys(sentences + described))


def sentences_without(held_out: Sequence[str]) -> list[str]:
    """Those of `emotion_sentences` that tell nothing of the emotions held out, by name, meaning or looks."""
    return [sentence for sentence in emotion_sentences() if not mentions(sentence, held_out)]


def mentions(text: str, emotions: Sequence[str]) -> bool:
    """Whether a text has a word of the same stem as a name or synonym of one of the emotions, an adjective that means
    it (MEANINGS), or one of its facial actions as a whole."""
    return any(telling(emotion).search(text.lower()) for emotion in emotions)


@cache
def telling(emotion: str) -> re.Pattern[str]:
    """Finds what tells of an emotion."""
    phrases = [*LABELS[emotion], *(synonym for level in SYNONYMS[emotion] for synonym in level)]
    words = {word for phrase in phrases for word in phrase.split()} - MODIFIERS
    whole = [*phrases, *ACTIONS[emotion], *MEANINGS[emotion].split(), *(word for word in words if len(word) < SHORT)]
    stems = {stem(word) for word in words if len(word) >= SHORT}
    return re.compile(rf"\b(?:un|dis|in)?(?:{'|'.join(sorted(stems))})|\b(?:{'|'.join(map(re.escape, whole))})\b")


def stem(word: str) -> str:
    """What a word shares with those made from it: "fear" of "fearful", "horr" of "horrified"."""
    fitting = (word.removesuffix(end) for end in ENDINGS if word.endswith(end))
    return next((rest for rest in fitting if len(rest) >= SHORT), word)
