"""Words for what faces and voices can show, far beyond the emotions that data sets name.

Fine-tuning on eight labels would let a text tower forget how all other feelings relate to them; the prior-preserving
loss of stage 1 holds it to what it knew of these. The selection is this project's own.
"""

from .prompts import prompts_for, with_article
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
